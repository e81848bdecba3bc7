"""RotoGrad: rotations and gradient magnitudes."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from rotograd_cli.methods.parts import num_heads
from rotograd_cli.methods.rotateonly import RotateOnly
from rotograd_cli.methods.scaleonly import ScaleOnly


class RotoGrad(RotateOnly):
    """RotateOnly plus scaling: all task gradients get the same norm, steered by convergence.

    The scaling is that of :class:`~rotograd_cli.methods.scaleonly.ScaleOnly`.

    Args:
        backbone: Shared network.
        heads: One network per task.
        *args: As :class:`RotateOnly`.
        burn_in_period: Step (from 0) whose losses and norms replace those of step 0 as start
            values.
        **options: As :class:`RotateOnly`.

    References:
        Javaloy and Valera, ICLR 2022, section 4.1 and Algorithm 1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        *args: Any,
        burn_in_period: int = 20,
        **options: Any,
    ) -> None:
        rule = ScaleOnly(num_tasks=num_heads(heads), burn_in_period=burn_in_period)
        super().__init__(
            backbone, heads, *args, rule=rule, burn_in_period=burn_in_period, **options
        )
