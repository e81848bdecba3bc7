"""RotoGrad: rotations and gradient magnitudes."""

from typing import Any

import torch
from torch import Tensor

from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.base import BackwardStep
from rotograd_cli.methods.initial_values import InitialValues
from rotograd_cli.methods.rotateonly import RotateOnly


class RotoGrad(RotateOnly):
    r"""RotateOnly plus scaling: all task gradients get the same norm C, steered by convergence.

    .. math::
        C\,\sum_k \frac{g_k}{\lVert g_k\rVert}, \qquad C = \sum_k \alpha_k \lVert g_k\rVert, \qquad
        \alpha_k \propto \frac{\lVert g_k\rVert}{\lVert g_k^0\rVert}, \quad \sum_k \alpha_k = 1.

    A start norm :math:`\lVert g_k^0\rVert` of zero is not recorded: the first gradient that is not
    zero becomes the start. (The authors' code keeps 1e-15, after which that task takes nearly all
    the weight.) A task whose gradient is zero takes no part: not in C, not in the mean direction
    that the others turn to, and its clock stands still. When all are zero, so is the result.

    Args:
        *args: As :class:`RotateOnly`.
        **kwargs: As :class:`RotateOnly`.

    References:
        Javaloy and Valera, ICLR 2022, section 4.1 and Algorithm 1.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial_norms = InitialValues(self.num_tasks, self.burn_in_period)

    def combination_weights(self, norms: Tensor, present: Tensor, step: BackwardStep) -> Tensor:
        r"""Weights :math:`C/\lVert g_k\rVert`, shape ``[K]``."""
        return equal_norm_weights(norms, present, self.initial_norms, step)


def equal_norm_weights(
    norms: Tensor, present: Tensor, initial_norms: InitialValues, step: BackwardStep
) -> Tensor:
    r"""Weights :math:`C/\lVert g_k\rVert` of the combination; see :class:`RotoGrad`.

    Args:
        norms: Norms of the task gradients, 0 for tasks that take no part, shape ``[K]``.
        present: Tasks that take part, boolean, shape ``[K]``.
        initial_norms: Start values, which take in these norms.
        step: The losses.

    Returns:
        The weights, 0 where the norm is, shape ``[K]``.
    """
    initial_norms.update(norms, present, accumulating=step.accumulating)
    ratios = norms / initial_norms.denominators.to(norms.dtype)
    alphas = divide_or_zero(ratios, ratios.sum())
    return divide_or_zero(torch.dot(alphas, norms), norms)
