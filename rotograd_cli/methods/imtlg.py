"""IMTL-G: equal projections onto every task's direction."""

import torch
from torch import Tensor

from rotograd_cli.linalg.gradients import directions, divide_or_zero
from rotograd_cli.methods.rule import GramianWeighting


class IMTLG(GramianWeighting):
    r"""Weights with sum 1 whose combination projects equally onto all directions.

    Weights may be negative. Where no such combination exists (directions that are linearly
    dependent), the projections are as equal as they can be, in the sense of least squares: between
    two tasks with opposite gradients, a third one still gains. The projections are at most as long
    as the shortest gradient: a task that has nearly converged slows the others down, and one whose
    gradient is exactly zero takes no part. Where directions cancel out and
    nothing is left, or where the weights have no sum to divide by, all weights are 0.

    References:
        Liu et al., "Towards Impartial Multi-Task Learning", ICLR 2021, equations 3 to 6. Computed
        by torchjd.
    """

    def weights_of(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """Weights with sum 1, or all 0, shape ``[k]``."""
        from torchjd.aggregation import IMTLGWeighting

        cosines, lengths = directions(gramian)
        weights = divide_or_zero(IMTLGWeighting()(cosines), lengths)
        total = weights.sum()
        cancels = total.abs() <= 1e-12 * weights.abs().sum()
        return torch.where(cancels, 0, weights / total)
