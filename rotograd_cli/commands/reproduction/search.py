"""The search of a row's setting: what is tried next, and which of it is chosen."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rotograd_cli.commands.reproduction.plan import Cell, Place, Planner, Point
from rotograd_cli.config.schema import suggest
from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey, of_split
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.runs import RunKey

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
    return len(values) > 1 and _are_numbers(values) and value in (min(values), max(values))


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


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(type(value) in (int, float) for value in values)


class Explorer:
    """Follows the search of one place, as far as its runs are there.

    Args:
        planner: The table's cells. Hydra must be running.
        place: Row and task.
        attempted: Folders of runs that are not waited for, finished or not.
    """

    def __init__(self, planner: Planner, place: Place, attempted: Set[Path]) -> None:
        assert planner.spec.grid is not None
        self._planner = planner
        self._grid = planner.spec.grid
        self._place = place
        self._attempted = attempted
        self._axes = planner.axes(place[0])
        self._cells: dict[str, list[Cell]] = {}
        """Cells by point, a cell for each seed."""

    def search(self) -> Search:
        """Return what was tried and what is to be tried next.

        Raises:
            ConfigError: If the runs do not have the metric that chooses.
        """
        start = self._planner.start(self._place[0])
        stages = self._stages()
        point: Point | None = start
        while stages and point is not None:
            point = self._stage(stages[0], point)
            if point is not None:
                stages.pop(0)
        cells = [cell for of_point in self._cells.values() for cell in of_point]
        is_open = not all(map(self._is_over, cells))
        select = None if self._place[1] else self._grid.select  # other tasks say nothing of one
        candidates = [_candidate(of_point, select) for of_point in self._cells.values()]
        metric, mode = self._criterion(cells, select)
        open_stages = stages if is_open else []
        return Search(
            self._place, candidates, mode, self._axes, metric, cells, is_open,
            self._num_later(open_stages[1:], start), self._num_extra(open_stages),
        )  # fmt: skip

    def _stages(self) -> list[list[str]]:
        """Keys with several values: together, or one after the other."""
        keys = [key for key, values in self._axes.items() if len(values) > 1]
        return [keys] if self._grid.search == "product" else [[key] for key in keys]

    def _stage(self, keys: Sequence[str], start: Point) -> Point | None:
        """Return the best combination of some keys' values, once it is known."""
        while True:
            cells = self._try(keys, start)
            if not all(self._is_over(cell) for of_point in cells for cell in of_point):
                return None
            candidates = [_candidate(of_point, None) for of_point in cells]
            best = best_of(candidates, _own_mode(cells[0][0]))
            if best is None:
                return None
            if not self._widen(keys, best.point):
                return best.point

    def _try(self, keys: Sequence[str], start: Point) -> list[list[Cell]]:
        """Return the cells of every combination of some keys' values, the others as given."""
        result = []
        for values in itertools.product(*(self._axes[key] for key in keys)):
            point = {**start, **dict(zip(keys, values, strict=True))}
            of_point = [self._cell(seed, point) for seed in self._grid.seeds]
            result.append(self._cells.setdefault(str(of_point[0].setting.overrides), of_point))
        return result

    def _cell(self, seed: int, point: Point) -> Cell:
        row, task = self._place
        return self._planner.cell(RunKey(row, seed, task), point)

    def _is_over(self, cell: Cell) -> bool:
        if cell.finished or cell.has_failed:
            return True
        return bool(self._attempted) and cell.run_dir in self._attempted

    def _widen(self, keys: Sequence[str], point: Point) -> bool:
        """Add the next value to every axis at whose edge a point lies, while there is room."""
        added = False
        for key in keys:
            value = next_outward(self._axes[key], point[key])
            if value is not None and self._room(key) > 0:
                self._axes[key].append(value)
                added = True
        return added

    def _room(self, key: str) -> int:
        """Values that may still be added to an axis."""
        values = self._axes[key]
        can_grow = self._grid.widen and _are_numbers(values) and min(values) > 0
        return MAX_EXTRA - (len(values) - len(self._grid.values[key])) if can_grow else 0

    def _num_later(self, stages: Iterable[Sequence[str]], start: Point) -> int:
        """Runs of stages that have not begun: of each value but one that has been trained then."""
        return sum(
            len(self._grid.seeds) * (len(self._axes[key]) - (start[key] in self._axes[key]))
            for (key,) in stages
        )

    def _num_extra(self, stages: Iterable[Sequence[str]]) -> int:
        now = [math.prod(len(self._axes[key]) for key in keys) for keys in stages]
        most = [
            math.prod(len(self._axes[key]) + self._room(key) for key in keys) for keys in stages
        ]
        return (sum(most) - sum(now)) * len(self._grid.seeds)

    def _criterion(self, cells: Sequence[Cell], select: str | None) -> tuple[str, str]:
        """Return the metric that chooses and which end of it is best."""
        summaries = [cell.summary for cell in cells if cell.summary is not None]
        if select is None:
            recorded = [str(summary.select) for summary in summaries]
            return next(iter(recorded), "train.select"), _own_mode(cells[0])
        mode = "min"
        for summary in summaries:
            ends = _better_ends(summary)
            if select not in ends:
                raise no_such_metric(select, ends)
            mode = ends[select]
        return select, mode


def _own_mode(cell: Cell) -> str:
    return str(cell.setting.composition.train.select_mode)


def no_such_metric(name: str, names: Iterable[str]) -> ConfigError:
    """Return the refusal of a ``table.grid.select`` that runs do not have."""
    return ConfigError(
        "`table.grid.select` must be a validation metric of the runs that has a better end, got "
        f"{name!r}; {suggest(name, list(names))}"
    )


def _better_ends(summary: RunSummary) -> dict[str, str]:
    """``min`` or ``max`` by validation metric that says which values are better."""
    specs = {**summary.metric_specs, **summary.statistic_specs}
    ends = {"lower": "min", "higher": "max"}
    result = {}
    for key in of_split(summary.metrics, "val"):
        better = specs[str(key)].better if str(key) in specs else _of_a_loss(key)
        if better is not None:
            result[f"val/{key}"] = ends[better]
    return result


def _of_a_loss(key: MetricKey) -> str | None:
    return "lower" if key.name.endswith("loss") else None


def _candidate(cells: Sequence[Cell], select: str | None) -> Candidate:
    """A setting from its cells, one per seed."""
    summaries = {cell.run.seed: cell.summary for cell in cells}
    values = {seed: _value(summary, select) for seed, summary in summaries.items()}
    data = frozenset(str(s.data_fingerprint) for s in summaries.values() if s is not None)
    return Candidate(cells[0].point, values, data)


def _value(summary: RunSummary | None, select: str | None) -> float:
    """Value that chooses: of a metric, or of the run's own; NaN without a finite one."""
    if summary is None or summary.selected_value is None:
        return math.nan
    value = summary.metrics.get(select) if select else summary.selected_value
    return math.nan if value is None else value
