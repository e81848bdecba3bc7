"""Dynamic weight average."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.backward import multiply_losses
from rotograd_cli.methods.base import BackwardStep
from rotograd_cli.methods.vanilla import VanillaMTL


class DynamicWeightAverage(VanillaMTL):
    r"""Everything is trained by :math:`\sum_k \lambda_k L_k`, more of what falls slowly.

    .. math::
        \lambda_k = K\,\mathrm{softmax}_k(r_k/T), \qquad r_k = \bar L_k(t-1)/\bar L_k(t-2)

    with the mean losses of the two epochs before. In the first two epochs, and for a task one of
    whose means is zero, negative, not finite or missing, r is 1. All state is in buffers, so that
    a run resumed inside an epoch goes on exactly.

    Args:
        *args: As :class:`VanillaMTL`.
        temperature: T > 0; larger values make the weights more even.
        **kwargs: As :class:`VanillaMTL`.

    Raises:
        ConfigError: If the temperature is not positive.

    References:
        Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019,
        section 3.3.
    """

    sums: Tensor  # [K] of the losses of the epoch under way
    counts: Tensor  # [K] number of these losses
    means: Tensor  # [2, K] mean losses of the epochs before, the older first; 0 where unknown

    def __init__(self, *args: Any, temperature: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not temperature > 0:
            raise ConfigError(f"`temperature` must be positive, got {temperature}.")
        self.temperature = float(temperature)
        self.register_buffer("sums", torch.zeros(self.num_tasks))
        self.register_buffer("counts", torch.zeros(self.num_tasks))
        self.register_buffer("means", torch.zeros(2, self.num_tasks))

    @property
    def weight(self) -> Tensor:
        """Weights of the losses, positive with sum K, shape ``[K]``."""
        older, newer = self.means
        usable = ((self.means > 0) & self.means.isfinite()).all(0)
        rates = torch.where(usable, newer / older.masked_fill(~usable, 1), 1)
        return self.num_tasks * (rates / self.temperature).softmax(0)

    def diagnostics(self) -> dict[str, Tensor]:
        """The weights."""
        return {"weight": self.weight}

    def weigh_losses(
        self, losses: Sequence[Tensor | None], step: BackwardStep
    ) -> Sequence[Tensor | None]:
        """Losses times their weights; the losses are noted for the epoch's mean."""
        weighed = multiply_losses(losses, self.weight)
        self.sums += torch.where(step.present, step.losses, 0)
        self.counts += step.present
        return weighed

    def end_epoch(self) -> None:
        """Moves on to the next epoch's weights."""
        mean = self.sums / self.counts.clamp_min(1)
        self.means.copy_(torch.stack((self.means[1], mean)))
        self.sums.zero_()
        self.counts.zero_()
