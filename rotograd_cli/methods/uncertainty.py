"""Weights from homoscedastic uncertainty."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rotograd_cli.methods.backward import multiply_losses
from rotograd_cli.methods.base import BackwardStep
from rotograd_cli.methods.vanilla import VanillaMTL


class UncertaintyWeighting(VanillaMTL):
    r"""Everything is trained by :math:`\sum_k \tfrac12\bigl(e^{-s_k} L_k + s_k\bigr)`.

    The log-variances :math:`s_k=\log\sigma_k^2` start at 0 and are trained by the second optimiser;
    at their optimum :math:`s_k = \log L_k`. This is the paper's form for a regression, used for
    every kind of task. A loss that is not positive has no such optimum: the weight would grow
    without bound, until zero times infinity ends the run. So a task without a loss, or whose loss
    is zero, negative, infinite or NaN, leaves its log-variance as it is, and what it has of a
    gradient keeps its weight.

    Args:
        *args: As :class:`VanillaMTL`.
        **kwargs: As :class:`VanillaMTL`.

    References:
        Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
        Geometry and Semantics", CVPR 2018, section 3.2.
    """

    plain_for_one_task: ClassVar[bool] = False  # its one weight is learned too

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_variance = nn.Parameter(torch.zeros(self.num_tasks))

    @property
    def weight(self) -> Tensor:
        """Weights of the losses, shape ``[K]``."""
        return 0.5 * (-self.log_variance).exp()

    def diagnostics(self) -> dict[str, Tensor]:
        """The weights."""
        return {"weight": self.weight.detach()}

    def weigh_losses(
        self, losses: Sequence[Tensor | None], step: BackwardStep
    ) -> Sequence[Tensor | None]:
        """Losses times their weights."""
        return multiply_losses(losses, self.weight.detach())

    def shared_gradient(self, task_gradients: Tensor, step: BackwardStep) -> Tensor:
        """The sum that autograd has formed; sets the gradient of the log-variances."""
        slopes = 0.5 - self.weight.detach() * step.losses
        usable = step.present & step.losses.isfinite() & (step.losses > 0)
        gradient = torch.where(usable, slopes / step.num_micro_batches, 0)
        self.add_gradient(self.log_variance, gradient, of_all_ranks=True)
        return task_gradients
