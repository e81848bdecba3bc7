"""What was tried for a row, which of it is best, and what lies beyond an edge."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rotograd_cli.commands.reproduction.cells import Cell, Place, Point

MAX_EXTRA = 3
"""Values that are tried beyond those of the grid, at most, for each key."""


@dataclass(frozen=True)
class Candidate:
    """A setting of the grid and its validation values."""

    point: Point
    values: Mapping[int, float]
    """Value of the metric that chooses, by seed of the grid; NaN where a run failed or has none."""
    data: frozenset[str] = frozenset()
    """Fingerprints of what its finished runs were trained on."""

    @property
    def num_gaps(self) -> int:
        """Seeds without a value: a setting that has any cannot be chosen."""
        return sum(not math.isfinite(value) for value in self.values.values())

    @property
    def mean(self) -> float:
        """Mean over the grid's seeds."""
        return statistics.fmean(self.values.values())


@dataclass(frozen=True)
class Search:
    """What was tried for a row and, of rows that are trained task by task, a task."""

    place: Place
    candidates: Sequence[Candidate]
    mode: str
    """``min`` or ``max``: which validation value is best."""
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Values by key, those that were added last."""
    metric: str = ""
    """Metric that chooses."""
    cells: Sequence[Cell] = field(default_factory=list, repr=False)
    """Runs, as far as it is known which are needed."""
    is_open: bool = False
    """Whether some of them are not there yet."""
    num_later: int = 0
    """Further runs that are needed, of settings that are not known yet."""
    num_extra: int = 0
    """Runs, at most, that widening may add to all these."""

    @property
    def best(self) -> Candidate | None:
        """The best of those with a value at every seed, of equal ones the first; None if none.

        A setting with a value outside the grid was where the search began, and is none of them.
        """
        inside = [c for c in self.candidates if self._is_inside(c.point)]
        return None if self.is_open else best_of(inside, self.mode)

    def _is_inside(self, point: Point) -> bool:
        return all(point[key] in values for key, values in self.axes.items())

    @property
    def failure(self) -> str:
        """Why there is nothing to choose; empty if there is."""
        if self.is_open:
            return "grid not finished"
        if self.best is not None:
            return ""
        num_cells = sum(len(candidate.values) for candidate in self.candidates)
        num_gaps = sum(candidate.num_gaps for candidate in self.candidates)
        return (
            "failed: no setting of the grid has a finite validation value at every seed, "
            f"{num_gaps} of {num_cells} cells have none"
        )

    @property
    def edges(self) -> list[str]:
        """Keys of which the best is the smallest or largest number that was tried."""
        best = self.best
        if best is None:
            return []
        return [k for k, values in self.axes.items() if is_edge(values, best.point[k])]


def best_of(candidates: Iterable[Candidate], mode: str) -> Candidate | None:
    """Return the best candidate that has a value at every seed; None if none has."""
    complete = [candidate for candidate in candidates if candidate.num_gaps == 0]
    choose = min if mode == "min" else max
    return choose(complete, key=lambda candidate: candidate.mean, default=None)


def is_edge(values: Sequence[Any], value: Any) -> bool:
    """Return whether a value is the smallest or the largest of several different numbers."""
    return len(values) > 1 and are_numbers(values) and value in (min(values), max(values))


def next_outward(values: Sequence[Any], value: Any) -> float | int | None:
    """Return the number beyond an edge, by the ratio of the two outermost numbers there.

    Args:
        values: Different values.
        value: One of them.

    Returns:
        Three significant digits, of whole numbers a whole number. None where ``value`` is no edge,
        the values are no positive numbers, or there is no other whole number.

    Examples:
        >>> next_outward([2e-3, 4e-3], 2e-3), next_outward([1e-2, 1.6e-2], 1.6e-2)
        (0.001, 0.0256)
        >>> next_outward([16, 64, 128], 128), next_outward([1, 2], 1)
        (256, None)
    """
    if not is_edge(values, value) or min(values) <= 0:
        return None
    outward = sorted(values, reverse=value == min(values))
    result = float(f"{value * value / outward[-2]:.3g}")
    if all(isinstance(each, int) for each in values):
        result = round(result)
    return result if result > 0 and result not in values else None


def are_numbers(values: Iterable[Any]) -> bool:
    """Return whether all values are numbers."""
    return all(type(value) in (int, float) for value in values)
