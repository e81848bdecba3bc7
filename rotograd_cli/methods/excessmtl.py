"""ExcessMTL: more weight for tasks that are further from convergence."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.per_parameter import PerParameterWeighting
from rotograd_cli.methods.rule import Statistics

_EPSILON = 1e-7  # of the authors' code, under the root


class ExcessMTL(PerParameterWeighting):
    r"""The backbone gets :math:`\sum_k w_k g_k`, with weights that grow with the excess risks.

    The excess risk of task k, its distance to convergence, is estimated by
    :math:`E_k = g_k^\top \mathrm{diag}(h_k)^{-1} g_k`, where :math:`h_k` is the root of the sum of
    :math:`g_k^2` over all steps so far. A step multiplies the weights, all 1 at first, by
    :math:`\exp(\eta E_k/E_k^{(1)})`, with the risk in the task's first step below; then they are
    scaled to sum K. The first step of a task leaves its weight as it is.

    A task that takes no part in a step keeps its weight and its sum. The heads get the plain
    losses, as with every rule on gradients; the authors' code multiplies these by the weights too.

    Args:
        num_tasks: Number K of tasks.
        step_size: :math:`\eta`.

    References:
        He et al., "Robust Multi-Task Learning with Excess Risks", ICML 2024, Algorithm 1, and its
        code.
    """

    kept_name: ClassVar[str] = "sum_of_squares"

    sum_of_squares: Tensor  # [K, P]
    first_risk: Tensor  # [K]; 0 before the task's first step
    weight: Tensor  # [K]

    @checked
    def __init__(self, *, num_tasks: int, step_size: Annotated[float, Gt(0)] = 0.01) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.step_size = float(step_size)
        self.register_buffer("sum_of_squares", torch.zeros(num_tasks, 0))
        self.register_buffer("first_risk", torch.zeros(num_tasks))
        self.register_buffer("weight", torch.ones(num_tasks))

    @property
    def needs_parameters(self) -> bool:
        """Whether squares of gradients are added up over steps: always."""
        return True

    def diagnostics(self) -> Mapping[str, Tensor]:
        """The weights of the last step."""
        return {"excess_weight": self.weight.clone()}

    def weights(self, s: Statistics) -> Tensor:
        """Return the weights after the last step, shape ``[K]``."""
        return torch.where(s.present, self.weight, 0)

    def combine_scaled(self, G: Tensor, s: Statistics) -> Tensor:
        """Update the weights and return the weighted sum, shape ``[D]``."""
        sums = self.kept(G)
        sums += G.square()
        risks = (G.square() / (sums + _EPSILON).sqrt()).sum(1)
        growth = (self.step_size * divide_or_zero(risks, self.first_risk)).exp()
        weight = torch.where(s.present, self.weight * growth, self.weight)
        self.weight.copy_(weight / weight.sum() * len(weight))
        is_first = s.present & (self.first_risk == 0)
        self.first_risk.copy_(torch.where(is_first, risks, self.first_risk))
        return self.weights(s) @ G
