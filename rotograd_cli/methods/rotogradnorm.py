"""RotoGradNorm: rotations with GradNorm's task weights."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rotograd_cli.methods.gradnorm import GradNormWeights
from rotograd_cli.methods.parts import num_heads
from rotograd_cli.methods.rotateonly import RotateOnly


class RotoGradNorm(RotateOnly):
    r"""RotateOnly with learned task weights; the backbone receives :math:`\sum_k w_k g_k`.

    The weights are those of :class:`~rotograd_cli.methods.gradnorm.GradNormWeights`.

    Args:
        backbone: Shared network.
        heads: One network per task.
        *args: As :class:`RotateOnly`.
        alpha: Exponent of the relative inverse training rate, ≥ 0; 0 asks for equal norms.
        burn_in_period: Step (from 0) whose losses replace those of step 0 as start values.
        **options: As :class:`RotateOnly`.

    Raises:
        ConfigError: If ``alpha`` is negative or not finite.

    References:
        Javaloy and Valera, ICLR 2022; Chen et al., "GradNorm: Gradient Normalization for Adaptive
        Loss Balancing in Deep Multitask Networks", ICML 2018, equations 1 and 2.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        *args: Any,
        alpha: float,
        burn_in_period: int = 20,
        **options: Any,
    ) -> None:
        rule = GradNormWeights(
            num_tasks=num_heads(heads), alpha=alpha, burn_in_period=burn_in_period
        )
        super().__init__(
            backbone, heads, *args, rule=rule, burn_in_period=burn_in_period, **options
        )

    @property
    def weight(self) -> Tensor:
        """Task weights, positive with sum K, shape ``[K]``, differentiable in the parameters."""
        assert isinstance(self.rule, GradNormWeights)
        return self.rule.weight
