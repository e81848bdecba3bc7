"""Single-task learning: what multi-task learning is measured against."""

from typing import ClassVar

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

    max_num_tasks: ClassVar[int | None] = 1
