"""Weights from homoscedastic uncertainty."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from rotograd_cli.methods.rule import Learned, Losses, LossWeighting


class UncertaintyWeighting(LossWeighting):
    r"""Everything is trained by :math:`\sum_k \tfrac12\bigl(e^{-s_k} L_k + s_k\bigr)`.

    The log-variances :math:`s_k=\log\sigma_k^2` start at 0 and are trained by the second optimiser;
    at their optimum :math:`s_k = \log L_k`. This is the paper's form for a regression, used for
    every kind of task. A loss that is not positive has no such optimum: the weight would grow
    without bound, until zero times infinity ends the run. So a task without a loss, or whose loss
    is zero, negative, infinite or NaN, leaves its log-variance as it is, and what it has of a
    gradient keeps its weight.

    Args:
        num_tasks: Number K of tasks.

    References:
        Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
        Geometry and Semantics", CVPR 2018, section 3.2.
    """

    plain_for_one_task: ClassVar[bool] = False  # its one weight is learned too

    def __init__(self, *, num_tasks: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.log_variance = nn.Parameter(torch.zeros(num_tasks))

    @property
    def weight(self) -> Tensor:
        """Weights of the losses, shape ``[K]``."""
        return 0.5 * (-self.log_variance).exp()

    def factors(self, losses: Losses) -> Tensor:
        """Return the weights, shape ``[K]``."""
        return self.weight.detach()

    def learn_from_losses(self, losses: Losses) -> Learned:
        """Return the gradient of the log-variances."""
        slopes = 0.5 - self.weight.detach() * losses.values
        usable = losses.present & losses.values.isfinite() & (losses.values > 0)
        return {self.log_variance: torch.where(usable, slopes, 0)}
