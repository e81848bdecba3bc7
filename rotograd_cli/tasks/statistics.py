"""Statistics over tasks of the metric that all of them lead with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.tasks.metrics import Better, MetricSpec


@dataclass(frozen=True)
class Statistic:
    """A number that sums up the same metric of several tasks."""

    name: str
    """Last part of the key ``split/statistic``, e.g. ``min_f1``."""
    better: Better | None
    """Direction of the metric; None for the spread, which has none."""
    percent: bool
    """Whether tables print the value times 100."""
    of: Callable[[Tensor], Tensor]
    """Maps the values of the K tasks, shape ``[K]``, to the statistic, a scalar."""


def statistics(leading: Sequence[MetricSpec | None]) -> tuple[Statistic, ...]:
    """Return the statistics over tasks that share their leading metric.

    Args:
        leading: Leading metric of each of the K tasks; None for a task without metrics.

    Returns:
        Minimum, median (of an even K the mean of the middle two, unlike ``torch.median``), mean and
        standard deviation (that of the population: divided by K) of the shared metric; none unless
        all tasks lead with the same metric in the same direction. A NaN among the values makes all
        four NaN. A single task has them too (its metric, and 0): the single-task networks of a
        setting select their epoch by the same key as the others.

    Examples:
        >>> from rotograd_cli.tasks.metrics import f1, mse
        >>> [statistic.name for statistic in statistics([f1(), f1()])]
        ['min_f1', 'median_f1', 'mean_f1', 'std_f1']
        >>> statistics([f1(), mse()])
        ()
    """
    kinds = {spec and (spec.name, spec.better, spec.percent) for spec in leading}
    first = leading[0] if leading else None
    if len(kinds) > 1 or first is None:
        return ()
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "min": torch.amin,
        "median": lambda values: torch.quantile(values, 0.5),
        "mean": torch.mean,
        "std": lambda values: values.std(correction=0),
    }
    return tuple(
        Statistic(
            f"{name}_{first.name}", None if name == "std" else first.better, first.percent, of
        )
        for name, of in functions.items()
    )
