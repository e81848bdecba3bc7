"""How much of a rotation is computed at a time, for which norm, and by which process."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rotograd_cli.linalg import devices

SHARED_FROM = 2**24
"""K m³ from which each process computes its share of the whole rotations for all: less takes less
time than telling the others."""

_SMALLEST_PLAN = 4.0  # norms that an accelerator plans for at least
_CHUNK_BYTES = {"cpu": 2**20, "cuda": 2**28}  # temporaries: in the cache, or a small part of memory


def wide(tensor: Tensor) -> Tensor:
    """Return a constant in float32 or wider."""
    tensor = tensor.detach()
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def lower_norms(X: Tensor) -> Tensor:
    r"""Return :math:`\lVert A_k\rVert_F/\sqrt2`, the norms of the lower triangles, ``[K]``."""
    norms: Tensor = torch.linalg.vector_norm(wide(X), dim=1)
    return norms


def parts(stack: Tensor, tasks: slice | None = None, *, times: int = 1) -> Iterator[slice]:
    """Yield ranges of tasks that are computed together, so that temporaries stay small.

    Args:
        stack: Matrices of the type that is computed in, shape ``[K, m, m]``.
        tasks: Tasks to compute; all by default.
        times: How many times as many tasks are computed at once.
    """
    tasks = tasks or slice(0, len(stack))
    bytes_per_task = max(1, stack[0].numel() * stack.element_size())
    num = times * max(1, _CHUNK_BYTES.get(stack.device.type, 2**28) // bytes_per_task)
    for start in range(tasks.start, tasks.stop, num):
        yield slice(start, min(start + num, tasks.stop))


class Workspace:
    """Memory that a pass hands on to the next: fresh pages cost more than what is written there."""

    def __init__(self) -> None:
        self._free: Tensor | None = None

    def take(self, like: Tensor) -> Tensor:
        """Return an uninitialised tensor of the same shape, dtype and device."""
        free = self._free
        self._free = None
        kind = (like.shape, like.dtype, like.device)
        if free is None or (free.shape, free.dtype, free.device) != kind:
            return torch.empty_like(like)
        return free

    def give_back(self, tensor: Tensor) -> None:
        """Take back a tensor that nobody reads any more."""
        self._free = tensor


class NormPlan:
    """The norm of A that accelerators compute for, where reading the norm means waiting.

    Twice the norm at the last reading, at least 4. A norm that outgrows it makes the results NaN,
    never inexact. The CPU reads the norm in every pass and has no plan.
    """

    def __init__(self) -> None:
        self.planned: float | None = None
        """None before the first reading, and where reading is free."""

    def norm(self, X: Tensor) -> float | None:
        """Return the planned norm; None where reading is free. Reads it the first time."""
        if devices.reads_are_free(X.device):
            return None
        if self.planned is None:
            self.planned = max(_SMALLEST_PLAN, 2 * float(lower_norms(X).amax()))
        return self.planned

    def forget(self) -> None:
        """Have the next pass read the norm."""
        self.planned = None
