"""FAMO: all losses fall at the same rate, from their values alone."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from rotograd_cli.bounds import checked
from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.logarithms import LogarithmicLosses
from rotograd_cli.methods.rule import Learned, Losses, LossWeighting


class FAMO(LogarithmicLosses, LossWeighting):
    r"""Everything is trained by :math:`c\sum_k z_k \log L_k`, a convex combination of gradients.

    Here :math:`z=\mathrm{softmax}(\xi)` and :math:`c = 1/\sum_k z_k/L_k`. After the network's
    update the losses of the same batch are computed again, and the logits :math:`\xi` descend along
    :math:`J^\top\delta + \gamma\xi`, where J is the Jacobian of the softmax and
    :math:`\delta_k = \log L_k - \log L_k'` what the update gained: tasks that gained less get more
    weight. The second optimiser trains the logits. The factors have sum 1, most of it with the
    smallest loss: losses of very different size make the others' steps short. With micro-batches
    each has factors 1/L of its own; the gain is that of the whole step.

    A loss that is zero, negative, or zero but for rounding (machine epsilon times the first loss of
    its task) has no logarithm. The paper's code adds 1e-8 to it, so that a satisfied task takes all
    the weight and the others stand still. Here such a task takes no part in c, and its loss is
    back-propagated with the factor :math:`z_k`: nothing where it has no gradient, a share of plain
    training where it has. A task without a loss, or without a logarithm before or after the
    update, keeps its logit, and z is the softmax over the others. Train losses that are negative
    for long with another method, or add a constant to them.

    Args:
        num_tasks: Number K of tasks.
        gamma: Decay :math:`\gamma` of the logits.

    References:
        Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, Algorithm 1.
    """

    needs_losses_after_update: ClassVar[bool] = True

    @checked
    def __init__(self, *, num_tasks: int, gamma: Annotated[float, Ge(0)] = 1e-3) -> None:
        super().__init__(num_tasks=num_tasks)
        self.gamma = float(gamma)
        self.logits = nn.Parameter(torch.zeros(num_tasks))

    def diagnostics(self) -> Mapping[str, Tensor]:
        """The weights z of the logarithms."""
        return {"logarithm_weight": self.logits.detach().softmax(0)}

    def factors(self, losses: Losses) -> Tensor:
        """Return the factors that the gradient of the logarithms has, with sum 1, shape ``[K]``."""
        L = losses.values
        usable = self.observe(losses)
        z = self._softmax(losses.present)
        smallest = torch.where(usable, L, torch.inf).amin()
        factors = torch.where(usable, z * (smallest / L), 0)
        factors = divide_or_zero(factors, factors.sum())
        return torch.where(usable, factors, z)

    def learn_from_update(self, before: Tensor, after: Tensor, present: Tensor) -> Learned:
        """Return the gradient of the logits."""
        usable = present & self.has_logarithm(before) & self.has_logarithm(after)
        gain = torch.where(usable, before, 1).log() - torch.where(usable, after, 1).log()
        z = self._softmax(usable)
        gradient = z * (gain - torch.dot(z, gain.to(z.dtype))) + self.gamma * self.logits.detach()
        return {self.logits: torch.where(usable, gradient, 0)}

    def _softmax(self, tasks: Tensor) -> Tensor:
        """Softmax of the logits over some of the tasks, 0 for the others, shape ``[K]``."""
        z = torch.where(tasks, self.logits.detach().softmax(0), 0)
        return divide_or_zero(z, z.sum())
