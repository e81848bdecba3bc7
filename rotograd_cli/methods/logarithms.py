"""Rules that take logarithms of losses: which losses have one, and what becomes of the others."""

import logging

import torch
from torch import Tensor

from rotograd_cli.methods.initial_values import InitialValues
from rotograd_cli.methods.rule import Losses, Rule

_LOGGER = logging.getLogger(__name__)


class LogarithmicLosses(Rule):
    """Base of rules that take logarithms of losses.

    A loss that is zero, negative, or zero but for rounding (machine epsilon times the first loss of
    its task) has no logarithm. A negative loss is reported once.

    Args:
        num_tasks: Number K of tasks.
    """

    negative: Tensor
    """Tasks that have had a negative loss, boolean, shape ``[K]``."""

    def __init__(self, *, num_tasks: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.initial_losses = InitialValues(num_tasks, burn_in_period=0)
        never = torch.zeros(num_tasks, dtype=torch.bool)
        self.register_buffer("negative", never, persistent=False)
        self._warned = False

    def refresh(self) -> None:
        """Warn once of losses that the rule is not made for."""
        if self._warned or not bool(self.negative.any()):
            return
        self._warned = True
        _LOGGER.warning(
            "%s takes logarithms of losses, and `losses[%d]` became negative: it is trained with "
            "a plain share of the weight. Add a constant to it, or choose another method.",
            type(self).__name__,
            int(self.negative.nonzero()[0]),
        )

    def observe(self, losses: Losses) -> Tensor:
        """Record start values; return the tasks whose loss has a logarithm, boolean, ``[K]``."""
        values = losses.values
        self.initial_losses.update(values, losses.present, accumulating=losses.accumulating)
        self.negative |= losses.present & (values < 0)
        return losses.present & self.has_logarithm(values)

    def has_logarithm(self, losses: Tensor) -> Tensor:
        """Losses that are positive by more than rounding, and finite; boolean, shape ``[K]``."""
        eps = torch.finfo(torch.promote_types(losses.dtype, torch.float32)).eps
        return (losses > eps * self.initial_losses.denominators) & losses.isfinite()


def slopes_of_logarithms(losses: Losses, usable: Tensor) -> Tensor:
    """Return the slopes of the logarithms of losses.

    Args:
        losses: The losses.
        usable: Tasks whose loss has a logarithm, boolean, shape ``[K]``.

    Returns:
        1/L, shape ``[K]``; 1 for a loss without a logarithm, 0 for an absent task.
    """
    values = losses.values.clamp_min(torch.finfo(losses.values.dtype).tiny)  # 1/L is finite
    return torch.where(usable, 1 / values, losses.present.to(values.dtype))
