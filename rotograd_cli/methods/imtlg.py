"""IMTL-G: equal projections onto every task's direction."""

from typing import Any

import torch
from torch import Tensor

from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.gramian import GramianMethod


class IMTLG(GramianMethod):
    r"""Weights with sum 1 whose combination projects equally onto all directions.

    Weights may be negative. Where no such combination exists (directions that cancel out), and for
    tasks whose gradient is zero, they are 0.

    Args:
        *args: As :class:`GramianMethod`.
        **kwargs: As :class:`GramianMethod`.

    References:
        Liu et al., "Towards Impartial Multi-Task Learning", ICLR 2021, equations 3 to 6. Computed
        by torchjd.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from torchjd.aggregation import IMTLGWeighting

        self._weighting = IMTLGWeighting()

    def weights(self, gramian: Tensor) -> Tensor:
        """Weights with sum 1, or 0 where there is no solution, shape ``[k]``."""
        norms = gramian.diagonal().sqrt()
        cosines = divide_or_zero(gramian, norms.unsqueeze(1) * norms)
        weights = divide_or_zero(self._weighting(cosines), norms)  # those of the gradients
        total = weights.sum()
        cancels = total.abs() <= 1e-12 * weights.abs().sum()
        return torch.where(cancels, 0, weights / total)
