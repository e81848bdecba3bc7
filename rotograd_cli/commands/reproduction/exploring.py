"""The search of a row's setting, followed as far as its runs are there."""

import itertools
import math
from collections.abc import Iterable, Sequence, Set
from pathlib import Path

from rotograd_cli.commands.reproduction.cells import Cell, Place, Point
from rotograd_cli.commands.reproduction.plan import Planner
from rotograd_cli.commands.reproduction.search import (
    MAX_EXTRA,
    Candidate,
    Search,
    are_numbers,
    best_of,
    next_outward,
)
from rotograd_cli.errors import ConfigError, suggest
from rotograd_cli.metric_keys import MetricKey, of_split
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.runs import RunKey


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
        can_grow = self._grid.widen and are_numbers(values) and min(values) > 0
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
