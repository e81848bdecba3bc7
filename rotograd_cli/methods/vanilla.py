"""Vanilla multi-task learning: the sum of the task losses."""

from collections.abc import Sequence

from torch import nn

from rotograd_cli.methods.engine.method import MultiTaskMethod


class VanillaMTL(MultiTaskMethod):
    r"""Joint training: the backbone receives :math:`\sum_k g_k`, the gradient of the summed losses.

    Args:
        backbone: Shared network.
        heads: One network per task.
        feature_shape: Shape of the features of one example; not needed here.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        *,
        feature_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(backbone, heads, feature_shape=feature_shape)
