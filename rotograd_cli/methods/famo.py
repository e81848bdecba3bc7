"""FAMO: all losses fall at the same rate, from their values alone."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.backward import multiply_losses
from rotograd_cli.methods.base import BackwardStep
from rotograd_cli.methods.initial_values import InitialValues
from rotograd_cli.methods.vanilla import VanillaMTL

_LOGGER = logging.getLogger(__name__)


class FAMO(VanillaMTL):
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
        *args: As :class:`VanillaMTL`.
        gamma: Decay :math:`\gamma` ≥ 0 of the logits.
        **kwargs: As :class:`VanillaMTL`.

    Raises:
        ConfigError: If ``gamma`` is negative.

    References:
        Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, Algorithm 1.
    """

    needs_losses_after_update: ClassVar[bool] = True

    negative: Tensor
    """Tasks that have had a negative loss, boolean, shape ``[K]``."""

    def __init__(self, *args: Any, gamma: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not gamma >= 0:
            raise ConfigError(f"`gamma` must be at least 0, got {gamma}.")
        self.gamma = float(gamma)
        self.logits = nn.Parameter(torch.zeros(self.num_tasks))
        self.initial_losses = InitialValues(self.num_tasks, burn_in_period=0)
        never = torch.zeros(self.num_tasks, dtype=torch.bool)
        self.register_buffer("negative", never, persistent=False)
        self._warned = False

    def diagnostics(self) -> dict[str, Tensor]:
        """The weights z of the logarithms."""
        return {"weight": self.logits.detach().softmax(0)}

    def refresh(self) -> None:
        """Warns once of losses that FAMO is not made for."""
        if self._warned or not bool(self.negative.any()):
            return
        self._warned = True
        _LOGGER.warning(
            "FAMO takes logarithms of losses, and `losses[%d]` became negative: it is trained with "
            "a plain share of the weight. Add a constant to it, or choose another method.",
            int(self.negative.nonzero()[0]),
        )

    def weigh_losses(
        self, losses: Sequence[Tensor | None], step: BackwardStep
    ) -> Sequence[Tensor | None]:
        """Losses times the factors that the gradient of the logarithms has, with sum 1."""
        self.initial_losses.update(step.losses, step.present, accumulating=step.accumulating)
        self.negative |= step.present & (step.losses < 0)
        z = self._softmax(step.present)
        usable = step.present & self._has_logarithm(step.losses)
        smallest = torch.where(usable, step.losses, torch.inf).amin()
        factors = torch.where(usable, z * (smallest / step.losses), 0)
        factors = divide_or_zero(factors, factors.sum())
        return multiply_losses(losses, torch.where(usable, factors, z))

    def observe_update(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        """Sets the gradient of the logits."""
        usable = present & self._has_logarithm(before) & self._has_logarithm(after)
        gain = torch.where(usable, before, 1).log() - torch.where(usable, after, 1).log()
        z = self._softmax(usable)
        gradient = z * (gain - torch.dot(z, gain.to(z.dtype))) + self.gamma * self.logits.detach()
        self.add_gradient(self.logits, torch.where(usable, gradient, 0))

    def _has_logarithm(self, losses: Tensor) -> Tensor:
        """Losses that are positive by more than rounding, and finite; boolean, shape ``[K]``."""
        eps = torch.finfo(torch.promote_types(losses.dtype, torch.float32)).eps
        return (losses > eps * self.initial_losses.denominators) & losses.isfinite()

    def _softmax(self, tasks: Tensor) -> Tensor:
        """Softmax of the logits over some of the tasks, 0 for the others, shape ``[K]``."""
        z = torch.where(tasks, self.logits.detach().softmax(0), 0)
        return divide_or_zero(z, z.sum())
