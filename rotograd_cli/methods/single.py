"""Single-task learning: what multi-task learning is measured against."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.parts import num_heads
from rotograd_cli.methods.vanilla import VanillaMTL


class SingleTask(VanillaMTL):
    """One network for one task: plain training. A run has exactly one task.

    Args:
        backbone: Network of the task.
        heads: The task's head.
        feature_shape: Shape of the features of one example; not needed here.

    Raises:
        ConfigError: If there is more than one head.
    """

    max_num_tasks: ClassVar[int] = 1

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        *,
        feature_shape: Sequence[int] | None = None,
    ) -> None:
        if num_heads(heads) > 1:
            raise ConfigError(
                f"{type(self).__name__} trains one network for 1 task, got "
                f"{len(heads)} tasks; choose one with tasks=[NAME], or run each with "
                "-m 'tasks=[NAME],[OTHER]'."
            )
        super().__init__(backbone, heads, feature_shape=feature_shape)
