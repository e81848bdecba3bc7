"""Task gradients as rows of a matrix, without those that would spoil the step."""

import torch
from torch import Tensor

from rotograd_cli.linalg.gradients import norms_of
from rotograd_cli.methods.base import BackwardStep
from rotograd_cli.ranks.base import Ranks


def taking_part(norms: Tensor, step: BackwardStep, num_nonfinite: Tensor) -> Tensor:
    """Tasks that take part in a step, for every method that sees single gradients.

    A task takes no part if it has no loss, if its loss or gradient is infinite or NaN, or if its
    gradient is zero: there is nothing to combine, and as one more direction or as one more term of
    a mean it would hold up the others.

    Args:
        norms: Norms of the task gradients over the whole batch, shape ``[K]``.
        step: The losses and which of them are there.
        num_nonfinite: Counts, in place, the tasks whose gradient or loss is infinite or NaN.

    Returns:
        Boolean, shape ``[K]``.
    """
    finite = norms.isfinite() & step.losses.isfinite()
    num_nonfinite += step.present & ~finite
    # the reciprocal of a smaller norm would overflow
    return step.present & finite & (norms >= torch.finfo(norms.dtype).tiny)


def wide_rows(task_gradients: Tensor) -> Tensor:
    """Gradients ``[K, ...]`` as rows ``[K, D]`` in float32 or wider."""
    rows = task_gradients.flatten(1)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def usable_rows(
    task_gradients: Tensor, step: BackwardStep, num_nonfinite: Tensor, ranks: Ranks
) -> tuple[Tensor, Tensor, Tensor]:
    """One row per task, zero where the task takes no part in the step.

    Args:
        task_gradients: Shape ``[K, ...]``.
        step: The losses and which of them are there.
        num_nonfinite: Counts, in place, the tasks whose gradient or loss is infinite or NaN.
        ranks: Who has the other examples of the batch.

    Returns:
        Rows in float32 or wider, shape ``[K, D]``; their norms over the whole batch, shape
        ``[K]``; which tasks take part, boolean, shape ``[K]``.
    """
    rows = wide_rows(task_gradients)
    norms = ranks.norms(norms_of(rows.unbind()))
    present = taking_part(norms, step, num_nonfinite)
    return torch.where(present.unsqueeze(1), rows, 0), torch.where(present, norms, 0), present
