"""FAMO: all losses fall at the same rate, from their values alone."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.backward import multiply_losses
from rotograd_cli.methods.base import BackwardStep
from rotograd_cli.methods.vanilla import VanillaMTL

_EPSILON = 1e-8  # losses count as at least this


class FAMO(VanillaMTL):
    r"""Everything is trained by :math:`c\sum_k z_k \log L_k`, a convex combination of gradients.

    Here :math:`z=\mathrm{softmax}(\xi)` and :math:`c = 1/\sum_k z_k/L_k`. After the network's
    update the losses of the same batch are computed again, and the logits :math:`\xi` descend along
    :math:`J^\top\delta + \gamma\xi`, where J is the Jacobian of the softmax and
    :math:`\delta_k = \log L_k - \log L_k'` what the update gained: tasks that gained less get more
    weight. The second optimiser trains the logits. Losses are taken as positive. With micro-batches
    each has factors 1/L of its own; the gain is that of the whole step.

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

    def __init__(self, *args: Any, gamma: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not gamma >= 0:
            raise ConfigError(f"`gamma` must be at least 0, got {gamma}.")
        self.gamma = float(gamma)
        self.logits = nn.Parameter(torch.zeros(self.num_tasks))

    def diagnostics(self) -> dict[str, Tensor]:
        """The weights z of the logarithms."""
        return {"weight": self.logits.detach().softmax(0)}

    def weigh_losses(
        self, losses: Sequence[Tensor | None], step: BackwardStep
    ) -> Sequence[Tensor | None]:
        """Losses times the factors that the gradient of the logarithms has, with sum 1."""
        z = torch.where(step.present, self.logits.detach().softmax(0), 0)
        factors = z / step.losses.clamp_min(_EPSILON)
        return multiply_losses(losses, factors / factors.sum())

    def observe_update(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        """Sets the gradient of the logits."""
        gain = before.clamp_min(_EPSILON).log() - after.clamp_min(_EPSILON).log()
        gain = torch.where(present & gain.isfinite(), gain, 0)
        logits = self.logits.detach()
        z = logits.softmax(0)
        gradient = z * (gain - torch.dot(z, gain.to(z.dtype))) + self.gamma * logits
        self.add_gradient(self.logits, gradient)
