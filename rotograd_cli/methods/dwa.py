"""Dynamic weight average."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.methods.rule import Losses, LossWeighting


class DynamicWeightAverage(LossWeighting):
    r"""Everything is trained by :math:`\sum_k \lambda_k L_k`, more of what falls slowly.

    .. math::
        \lambda_k = K\,\mathrm{softmax}_k(r_k/T), \qquad r_k = \bar L_k(t-1)/\bar L_k(t-2)

    with the mean losses of the two epochs before. In the first two epochs, and for a task one of
    whose means is zero, negative, not finite or missing, r is 1. All state is in buffers, so that
    a run resumed inside an epoch goes on exactly.

    Args:
        num_tasks: Number K of tasks.
        temperature: T; larger values make the weights more even.

    References:
        Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019,
        section 3.3.
    """

    sums: Tensor  # [K] of the losses of the epoch under way
    counts: Tensor  # [K] number of these losses
    means: Tensor  # [2, K] mean losses of the epochs before, the older first; 0 where unknown

    @checked
    def __init__(self, *, num_tasks: int, temperature: Annotated[float, Gt(0)] = 2.0) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.temperature = float(temperature)
        self.register_buffer("sums", torch.zeros(num_tasks))
        self.register_buffer("counts", torch.zeros(num_tasks))
        self.register_buffer("means", torch.zeros(2, num_tasks))

    @property
    def weight(self) -> Tensor:
        """Weights of the losses, positive with sum K, shape ``[K]``."""
        older, newer = self.means
        usable = ((self.means > 0) & self.means.isfinite()).all(0)
        rates = torch.where(usable, newer / older.masked_fill(~usable, 1), 1)
        return len(rates) * (rates / self.temperature).softmax(0)

    def factors(self, losses: Losses) -> Tensor:
        """Note the losses for the epoch's mean; return the weights, shape ``[K]``."""
        usable = losses.present & losses.values.isfinite()
        self.sums += torch.where(usable, losses.values, 0)
        self.counts += usable
        return self.weight

    def end_epoch(self) -> None:
        """Move on to the next epoch's weights."""
        mean = self.sums / self.counts.clamp_min(1)
        self.means.copy_(torch.stack((self.means[1], mean)))
        self.sums.zero_()
        self.counts.zero_()
