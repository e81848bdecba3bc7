"""Columns of a run's history as lines of charts."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rotograd_cli.report.charts import Point

MOST_POINTS = 4000
"""Points of one chart, over all of its lines."""
History = Mapping[str, NDArray[np.float64]]


def column(history: History, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the steps at which a key was recorded with a finite value, and the values."""
    values = history.get(key)
    if values is None:
        return np.empty(0), np.empty(0)
    recorded = np.isfinite(values)
    return history["step"][recorded], values[recorded]


def has(history: History, key: str) -> bool:
    """Return whether a key was ever recorded with a finite value."""
    return len(column(history, key)[0]) > 0


def points(history: History, keys: Mapping[str, str], most: int = MOST_POINTS) -> list[Point]:
    """Return the points of several lines, thinned to what a chart can show.

    A line with more points than its part of ``most`` is cut into as many windows of equal length,
    of which each shows the mean over its records.

    Args:
        history: Columns by key, ``step`` among them.
        keys: Key by the line's name; keys that were not recorded are left out.
        most: Most points of all lines together.
    """
    num = min(200, max(20, most // max(1, len(keys))))
    result = []
    for line, key in keys.items():
        steps, values = thinned(*column(history, key), num)
        result += [Point(line, *pair) for pair in zip(steps.tolist(), values.tolist(), strict=True)]
    return result


def thinned(
    steps: NDArray[np.float64], values: NDArray[np.float64], most: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most ``most`` points: the last step and the mean value of windows of records."""
    if len(steps) == 0:
        return steps, values
    starts, last = windows(steps, most)
    sizes = np.diff([*starts, len(steps)])
    return last, np.add.reduceat(values, starts) / sizes


def windows(steps: NDArray[np.float64], most: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Cut records into windows of equal length, of one record each where these are few.

    Args:
        steps: Steps of the records, at least one.
        most: Most windows.

    Returns:
        Where windows begin, and their last steps.
    """
    ends = np.linspace(0, len(steps), min(most, len(steps)) + 1).round().astype(int)
    return ends[:-1], steps[ends[1:] - 1]


def frames(steps: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Return the positions of at most ``most`` steps, evenly spread, the first and the last in."""
    return np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int))


def positive(history: History, keys: Sequence[str]) -> bool:
    """Return whether all recorded values of some keys are above 0, so that a log axis fits."""
    return all(bool((column(history, key)[1] > 0).all()) for key in keys)
