"""Keys of metrics: ``split/task/metric``, or ``split/statistic`` for a number over all tasks."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

Split = Literal["train", "val", "test"]


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
    """Return the values of one split; None, as files have what is not finite, becomes NaN.

    Args:
        values: Values by ``split/task/metric`` or ``split/statistic``; other keys are left out.
        split: Which split.
    """
    result = {}
    for text, value in values.items():
        first, slash, rest = text.partition("/")
        if first == split and slash:
            result[MetricKey.parse(rest)] = math.nan if value is None else float(value)
    return result
