"""STCH: the smooth maximum of the losses, relative to those after a warm-up."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.methods.logarithms import LogarithmicLosses, slopes_of_logarithms
from rotograd_cli.methods.rule import Losses, LossWeighting


class STCH(LogarithmicLosses, LossWeighting):
    r"""Everything is trained by a smooth maximum over tasks, the smooth Tchebycheff scalarisation.

    .. math::
        K \mu \log \sum_k \exp\Bigl(\frac1\mu \log\frac{L_k}{N_k}\Bigr)

    :math:`N_k`, the nadir, is the mean loss of the last warm-up epoch; until its end
    :math:`\sum_k \log L_k` is minimised. A run of no more epochs than that is therefore one of
    :class:`~rotograd_cli.methods.si.ScaleInvariant`. Logarithms, warm-up, nadir and the factor K
    are those of the authors' code for multi-task learning, which has the ideal point at 0 and equal
    preferences, and counts ``warmup_epochs`` from 0. K is the number of tasks with a loss.

    A task that had no loss in the last warm-up epoch keeps the mean of the last epoch in which it
    had one; until there is such an epoch, its logarithm is added beside the maximum. A loss that
    has no logarithm (:class:`~rotograd_cli.methods.logarithms.LogarithmicLosses`) is trained with
    the factor 1. With micro-batches each has factors of its own. All state is in buffers.

    Args:
        num_tasks: Number K of tasks.
        mu: Smoothness :math:`\mu`; towards 0 the largest relative loss alone is trained.
        warmup_epochs: Epochs of the warm-up.

    References:
        Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", ICML 2024,
        equation 8, and its code for multi-task learning.
    """

    plain_for_one_task: ClassVar[bool] = False  # a loss is divided by its value

    sums: Tensor  # [K] of the losses of the epoch under way
    counts: Tensor  # [K] number of these losses
    nadir: Tensor  # [K]; 0 where unknown
    num_epochs: Tensor  # epochs that have ended

    @checked
    def __init__(
        self,
        *,
        num_tasks: int,
        mu: Annotated[float, Gt(0)] = 1.0,
        warmup_epochs: Annotated[int, Ge(1)] = 5,
    ) -> None:
        super().__init__(num_tasks=num_tasks)
        self.mu = float(mu)
        self.warmup_epochs = warmup_epochs
        for name in ("sums", "counts", "nadir"):
            self.register_buffer(name, torch.zeros(num_tasks))
        self.register_buffer("num_epochs", torch.zeros((), dtype=torch.int64))

    def factors(self, losses: Losses) -> Tensor:
        """Note the losses for the epoch's mean; return the slopes of the objective, ``[K]``."""
        usable = self.observe(losses)
        self.sums += torch.where(usable, losses.values, 0)
        self.counts += usable
        slopes = slopes_of_logarithms(losses, usable)
        is_warm = self.num_epochs >= self.warmup_epochs
        compared = usable & (self.nadir > 0) & is_warm
        relative = torch.where(compared, losses.values / self.nadir, 1).log()
        shares = torch.where(compared, relative / self.mu, -torch.inf).softmax(0)
        return torch.where(compared, compared.sum() * shares * slopes, slopes)

    def notes(self, num_epochs: int) -> Sequence[str]:
        """Say that a run ends with its warm-up."""
        if num_epochs > self.warmup_epochs:
            return ()
        return (
            f"no epoch after the warm-up (warmup_epochs={self.warmup_epochs}), so trained as SI",
        )

    def end_epoch(self) -> None:
        """Take the epoch's mean losses for the nadir, until the warm-up ends."""
        is_due = (self.num_epochs < self.warmup_epochs) | (self.nadir == 0)
        means = self.sums / self.counts.clamp_min(1)
        self.nadir.copy_(torch.where(is_due & (self.counts > 0), means, self.nadir))
        self.num_epochs += 1
        self.sums.zero_()
        self.counts.zero_()
