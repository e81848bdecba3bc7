"""Task gradients as rows of a matrix, without those that would spoil the step."""

import torch
from torch import Tensor

from rotograd_cli.methods.base import BackwardStep
from rotograd_cli.ranks.base import Ranks


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
    rows = task_gradients.flatten(1)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    norms = ranks.norms(torch.linalg.vector_norm(rows, dim=1))
    finite = norms.isfinite() & step.losses.isfinite()
    num_nonfinite += step.present & ~finite
    present = step.present & finite
    return torch.where(present.unsqueeze(1), rows, 0), torch.where(present, norms, 0), present
