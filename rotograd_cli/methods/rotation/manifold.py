"""The manifold SO(m) of geotorch, with a map of ours."""

from collections.abc import Callable

import geotorch
import torch
from torch import Tensor, nn


def rotation_manifold(base: Tensor, psi: Callable[[Tensor], Tensor]) -> nn.Module:
    r"""Return the parametrisation :math:`X \mapsto B\,\psi(A)` of SO(m).

    geotorch's constructor samples bases that would be replaced at once, with a batched determinant
    that may hang on the CPU from about ``[2, 512, 512]`` on; so the manifold is built at size 1 and
    given its size and bases afterwards.

    Args:
        base: Rotations B, shape ``[K, m, m]``; a buffer of the result.
        psi: Map from skew matrices A to rotations.

    Returns:
        A module that maps free parameters X, shape ``[K, m, m]``, to rotations.
    """
    with torch.random.fork_rng(devices=[]):
        manifold = geotorch.SO(torch.Size((1, 1)), triv=psi)
    manifold.n = base.shape[-1]
    manifold.tensorial_size = base.shape[:-2]
    manifold.register_buffer("base", base.clone(memory_format=torch.contiguous_format))
    result: nn.Module = manifold
    return result
