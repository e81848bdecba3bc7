"""DB-MTL: logarithms of losses, and gradients as long as the longest."""

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.linalg.gradients import divide_or_zero, norms_of
from rotograd_cli.methods.logarithms import LogarithmicLosses, slopes_of_logarithms
from rotograd_cli.methods.per_parameter import PerParameterWeighting
from rotograd_cli.methods.rule import Losses, Statistics


class DBMTL(LogarithmicLosses, PerParameterWeighting):
    r"""The heads get :math:`\log L_k`, the backbone the sum of its gradients at equal length.

    With :math:`g_k = \nabla \log L_k`, the backbone gets
    :math:`\max_j\lVert \hat g_j\rVert \sum_k \hat g_k/\lVert \hat g_k\rVert`, where
    :math:`\hat g_k` is a moving average: :math:`\beta_t \hat g_k + (1 - \beta_t) g_k` with
    :math:`\beta_t = \beta/\sqrt t` in the t-th step in which the task takes part, from zeros on.
    Features of different batches have nothing in common, so only gradients over the parameters are
    averaged; a task without one in a step keeps its average and is left out of the sum.

    A loss that has no logarithm (:class:`~rotograd_cli.methods.logarithms.LogarithmicLosses`) is
    taken as it is. With micro-batches each has logarithms of its own.

    Args:
        num_tasks: Number K of tasks.
        beta: :math:`\beta`; 0 averages nothing. More needs ``gradients=parameters`` and keeps the K
            averages in the state.

    References:
        Lin et al., "Dual-Balancing for Multi-Task Learning", 2023, Algorithm 1.
    """

    plain_for_one_task: ClassVar[bool] = False  # a loss is divided by its value
    kept_name: ClassVar[str] = "average"

    average: Tensor  # [K, P]
    num_steps: Tensor  # [K] steps in which the task took part

    @checked
    def __init__(self, *, num_tasks: int, beta: Annotated[float, Ge(0), Lt(1)] = 0.0) -> None:
        super().__init__(num_tasks=num_tasks)
        self.beta = float(beta)
        self.register_buffer("average", torch.zeros(num_tasks, 0))
        self.register_buffer("num_steps", torch.zeros(num_tasks, dtype=torch.int64))

    @property
    def needs_parameters(self) -> bool:
        """Whether gradients are averaged over steps."""
        return self.beta > 0

    def factors(self, losses: Losses) -> Tensor:
        """Return 1/L, shape ``[K]``; 0 for absent tasks."""
        return slopes_of_logarithms(losses, self.observe(losses))

    def weights(self, s: Statistics) -> Tensor:
        """Return the longest norm over each norm, shape ``[K]``; 0 for tasks without a gradient."""
        return divide_or_zero(s.norms.amax(), s.norms)

    def combine_scaled(self, G: Tensor, s: Statistics) -> Tensor:
        """Return the sum of the averages at the longest length, shape ``[D]``."""
        if self.beta == 0:
            return super().combine_scaled(G, s)
        average = self.kept(G)
        self.num_steps += s.present
        decay = self.beta / self.num_steps.clamp_min(1).to(G.dtype).sqrt().unsqueeze(1)
        takes_part = s.present.unsqueeze(1)
        averages = torch.where(takes_part, decay * average + (1 - decay) * G, average)
        average.copy_(averages)
        averages = torch.where(takes_part, averages, 0)
        norms = norms_of(averages.unbind())
        return divide_or_zero(norms.amax(), norms) @ averages
