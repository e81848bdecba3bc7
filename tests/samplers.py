"""Sets of task gradients by kind, shape ``[K, D]``: what a method has to cope with."""

from collections.abc import Callable

import torch
from torch import Tensor

NUM_TASKS, BATCH, SIZE = 4, 5, 6
DIM = BATCH * SIZE


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(11))


def generic() -> Tensor:
    """Any directions, lengths of the same order."""
    return _normal(NUM_TASKS, DIM)


def aligned() -> Tensor:
    """One direction, lengths 1 to K."""
    return _normal(1, DIM) * torch.arange(1.0, NUM_TASKS + 1).unsqueeze(1)


def conflicting() -> Tensor:
    """Two opposite pairs: the mean is exactly zero."""
    pair = _normal(NUM_TASKS // 2, DIM)
    return torch.cat((pair, -pair))


def rank_deficient() -> Tensor:
    """All tasks in one plane."""
    basis = _normal(NUM_TASKS + 2, DIM)
    return basis[2:, :2] @ basis[:2]


def zero_row() -> Tensor:
    """One task without a gradient."""
    G = generic()
    G[1] = 0
    return G


def all_zero() -> Tensor:
    """No task has a gradient."""
    return torch.zeros(NUM_TASKS, DIM)


def single_task() -> Tensor:
    """K = 1."""
    return _normal(1, DIM)


def scaled(factor: float) -> Callable[[], Tensor]:
    """All tasks at another scale."""
    return lambda: factor * generic()


def mixed_scales() -> Tensor:
    """Lengths from 1e-10 to 1e10 in one set."""
    return generic() * torch.logspace(-10, 10, NUM_TASKS).unsqueeze(1)


SAMPLERS: dict[str, Callable[[], Tensor]] = {
    "generic": generic,
    "aligned": aligned,
    "conflicting": conflicting,
    "rank_deficient": rank_deficient,
    "zero_row": zero_row,
    "all_zero": all_zero,
    "single_task": single_task,
    "scale_1e-10": scaled(1e-10),
    "scale_1e-5": scaled(1e-5),
    "scale_1e5": scaled(1e5),
    "scale_1e10": scaled(1e10),
    "mixed_scales": mixed_scales,
}
