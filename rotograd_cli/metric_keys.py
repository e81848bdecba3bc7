"""Keys of metrics: ``split/task/metric``, or ``split/statistic`` for a number over all tasks.

Records of training steps also have numbers of pairs of tasks, ``train/TASK/TASK/NUMBER``, and over
all pairs, ``train/conflict/NUMBER``; these are no metrics.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

Split = Literal["train", "val", "test"]

OF_ALL_PAIRS = "conflict"
"""Stands where a task would in the keys of numbers over all pairs of tasks; no task's name."""


class MetricKey(NamedTuple):
    """A metric without its split, such as ``left/accuracy`` or, over all tasks, ``mean_f1``."""

    task: str | None
    """Task; None for a number over all tasks."""
    name: str

    @classmethod
    def parse(cls, text: str) -> "MetricKey":
        """Return the key that a text without a split names.

        Examples:
            >>> MetricKey.parse("left/accuracy"), MetricKey.parse("mean_f1")
            (MetricKey(task='left', name='accuracy'), MetricKey(task=None, name='mean_f1'))
        """
        task, _, name = text.rpartition("/")
        return cls(task or None, name)

    def __str__(self) -> str:
        """Return the text that :meth:`parse` reads."""
        return self.name if self.task is None else f"{self.task}/{self.name}"


def of_split(values: Mapping[str, float | None], split: str) -> dict[MetricKey, float]:
    """Return the metrics of one split; None, as files have what is not finite, becomes NaN.

    Numbers of pairs of tasks are left out.

    Args:
        values: Values by ``split/task/metric`` or ``split/statistic``; other keys are left out.
        split: Which split.
    """
    result = {}
    for text, value in values.items():
        first, slash, rest = text.partition("/")
        is_metric = rest.count("/") <= 1 and not rest.startswith(f"{OF_ALL_PAIRS}/")
        if first == split and slash and is_metric:
            result[MetricKey.parse(rest)] = math.nan if value is None else float(value)
    return result
