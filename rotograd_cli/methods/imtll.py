"""IMTL-L: learned scales that bring all losses to the same size."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from rotograd_cli.methods.rule import Learned, Losses, LossWeighting, Rule


class LearnedScales(Rule):
    r"""Base of rules that scale losses: :math:`e^{s_k} L_k - s_k`, with learned :math:`s_k`.

    The second optimiser trains :math:`s_k`, which starts at 0. At its optimum every scaled loss is
    1. A task without a loss, or whose loss is zero, negative, infinite or NaN, has no such optimum
    and leaves its :math:`s_k` as it is.

    Args:
        num_tasks: Number K of tasks.
    """

    plain_for_one_task: ClassVar[bool] = False  # its scale is learned too

    def __init__(self, *, num_tasks: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.log_scale = nn.Parameter(torch.zeros(num_tasks))

    def factors(self, losses: Losses) -> Tensor:
        """Return the scales, shape ``[K]``."""
        return self.log_scale.detach().exp()

    def learn_from_losses(self, losses: Losses) -> Learned:
        """Return the gradient of the logarithms of the scales."""
        slopes = self.log_scale.detach().exp() * losses.values - 1
        usable = losses.present & losses.values.isfinite() & (losses.values > 0)
        return {self.log_scale: torch.where(usable, slopes, 0)}


class IMTLL(LearnedScales, LossWeighting):
    r"""Everything is trained by :math:`\sum_k \bigl(e^{s_k} L_k - s_k\bigr)`.

    Up to the unit of :math:`s_k` and a factor of 2 this is
    :class:`~rotograd_cli.methods.uncertainty.UncertaintyWeighting`.

    Args:
        num_tasks: Number K of tasks.

    References:
        Liu et al., "Towards Impartial Multi-Task Learning", ICLR 2021, section 3.2.
    """
