"""Which cells a table needs: first those of its grid, then the chosen settings at every seed."""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rotograd_cli.report import read_summary
from rotograd_cli.reproduce.cells import Cell, CellMaker
from rotograd_cli.tables.results import RunKey
from rotograd_cli.tables.schema import TableSpec
from rotograd_cli.tables.spec import row_overrides

METHOD_PREFIX = "method_optimizer"
"""Grid keys that begin with it are for rows whose method has parameters of its own."""

Point = dict[str, float]
"""Values of the grid's keys."""


@dataclass(frozen=True)
class Candidate:
    """A setting of the grid and how it did on validation."""

    row: str
    task: str | None
    point: Point
    values: dict[int, float]
    """Selection metric by seed of the grid; NaN where the run did not finish."""
    chosen: bool = False

    @property
    def mean(self) -> float:
        """Mean over the grid's seeds; NaN if any is missing."""
        return statistics.fmean(self.values.values())


class Planner:
    """Cells of a table.

    Args:
        spec: Table with the rows that are wanted.
        maker: Composes cells.
        seeds: Seeds of every row.
    """

    def __init__(self, spec: TableSpec, maker: CellMaker, seeds: Sequence[int]) -> None:
        self.spec, self.maker, self.seeds = spec, maker, list(seeds)

    def places(self) -> Iterator[tuple[str, str | None]]:
        """Rows, and of rows that are trained task by task each task."""
        for row, row_spec in self.spec.rows.items():
            tasks: Sequence[str | None] = self.spec.tasks if row_spec.per_task else [None]
            for task in tasks:
                yield row, task

    def points(self, row: str) -> list[Point]:
        """Combinations of the grid that a row tries; one empty point without a grid."""
        values = {} if self.spec.grid is None else self.spec.grid.values
        has_parameters = self.spec.rows[row].method_grid
        keys = [k for k in values if has_parameters or not k.startswith(METHOD_PREFIX)]
        combinations = itertools.product(*(values[key] for key in keys))
        return [dict(zip(keys, combination, strict=True)) for combination in combinations]

    def grid_cells(self) -> list[Cell]:
        """Every combination of the grid at its seeds; none where a row has nothing to choose."""
        seeds = [] if self.spec.grid is None else self.spec.grid.seeds
        return [
            self._cell(row, task, seed, point)
            for seed in seeds
            for row, task in self.places()
            for point in self.points(row)
            if len(self.points(row)) > 1
        ]

    def final_cells(self, chosen: Mapping[tuple[str, str | None], Point]) -> list[Cell]:
        """The chosen setting of every row at every seed.

        Args:
            chosen: Point by row and task; rows with one point may be absent.

        Returns:
            The cells, those of the first seed first; without rows that are to be chosen still.
        """
        cells = []
        for seed in self.seeds:
            for row, task in self.places():
                points = self.points(row)
                point = chosen.get((row, task), points[0] if len(points) == 1 else None)
                if point is not None:
                    cells.append(self._cell(row, task, seed, point))
        return cells

    def candidates(self) -> list[Candidate]:
        """How the grid's settings did, the best of each row and task marked as chosen."""
        found: dict[tuple[str, str | None], list[Candidate]] = {}
        modes: dict[tuple[str, str | None], str] = {}
        for cell in self.grid_cells():
            place, point = (cell.run.row, cell.run.task), dict(cell.point)
            modes[place] = cell.config.train.select_mode
            same = [c for c in found.setdefault(place, []) if c.point == point]
            if not same:
                same = [Candidate(*place, point, {})]
                found[place] += same
            same[0].values[cell.run.seed] = _selected(cell)
        return [c for place, group in found.items() for c in _marked(group, modes[place])]

    def _cell(self, row: str, task: str | None, seed: int, point: Point) -> Cell:
        return self.maker.make(RunKey(row, seed, task), row_overrides(self.spec, row), point)


def choices(candidates: Sequence[Candidate]) -> dict[tuple[str, str | None], Point]:
    """The chosen points by row and task."""
    return {(c.row, c.task): c.point for c in candidates if c.chosen}


def _selected(cell: Cell) -> float:
    """Value of the run's own selection metric at its selected epoch."""
    if not cell.finished:
        return math.nan
    summary = read_summary(cell.run_dir) or {}
    value = summary["metrics"].get(summary["select"])
    return math.nan if value is None else float(value)


def _marked(group: Sequence[Candidate], mode: str) -> list[Candidate]:
    """The candidates, the best of those with all their runs marked."""
    complete = [c for c in group if not math.isnan(c.mean)]
    if not complete:
        return list(group)
    best = (min if mode == "min" else max)(complete, key=lambda c: c.mean)
    return [
        Candidate(c.row, c.task, c.point, c.values, chosen=True) if c is best else c for c in group
    ]
