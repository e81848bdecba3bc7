"""Which cells a table needs: first those of its grid, then the chosen settings at every seed."""

import dataclasses
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rotograd_cli.commands.reproduction.cells import Cell, CellMaker
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.runs import RunKey
from rotograd_cli.tables.spec import TableSpec, row_overrides

METHOD_PREFIX = "method_optimizer"
"""Grid keys that begin with it are for rows whose method has parameters of its own."""

Point = dict[str, float]
"""Values of the grid's keys."""
Place = tuple[str, str | None]
"""A row and, of rows that are trained task by task, the task."""


@dataclass(frozen=True)
class Candidate:
    """A setting of the grid and its validation values."""

    row: str
    task: str | None
    point: Point
    values: dict[int, float]
    """Selection value by seed of the grid; NaN where the run failed or has no finite one."""
    chosen: bool = False
    data: frozenset[str] = frozenset()
    """Fingerprints of what its finished runs were trained on."""

    @property
    def mean(self) -> float:
        """Mean over the grid's seeds; NaN if any is missing."""
        return math.nan if self.gaps else statistics.fmean(self.values.values())

    @property
    def gaps(self) -> list[int]:
        """Seeds without a value: a setting that has any is no candidate for the choice."""
        return [seed for seed, value in self.values.items() if not math.isfinite(value)]


class Planner:
    """Cells of a table.

    Args:
        spec: Table with the rows to train.
        maker: Composes cells.
        seeds: Seeds of every row.
    """

    def __init__(self, spec: TableSpec, maker: CellMaker, seeds: Sequence[int]) -> None:
        self.spec = spec
        self.maker = maker
        self.seeds = list(seeds)

    def places(self) -> Iterator[Place]:
        """Yield the rows, and each task of rows that are trained task by task."""
        for row, row_spec in self.spec.rows.items():
            tasks: Sequence[str | None] = self.spec.tasks if row_spec.per_task else [None]
            for task in tasks:
                yield row, task

    def points(self, row: str) -> list[Point]:
        """Return the combinations of the grid that a row tries; one empty point without a grid."""
        values = {} if self.spec.grid is None else self.spec.grid.values
        has_parameters = self.spec.rows[row].method_grid
        keys = [k for k in values if has_parameters or not k.startswith(METHOD_PREFIX)]
        combinations = itertools.product(*(values[key] for key in keys))
        return [dict(zip(keys, combination, strict=True)) for combination in combinations]

    def grid_cells(self) -> list[Cell]:
        """Return every combination of the grid at its seeds; none of a row without a choice."""
        seeds = [] if self.spec.grid is None else self.spec.grid.seeds
        return [
            self._cell(row, task, seed, point)
            for seed in seeds
            for row, task in self.places()
            for point in self.points(row)
            if len(self.points(row)) > 1
        ]

    def final_cells(self, chosen: Mapping[Place, Point]) -> list[Cell]:
        """Return the chosen setting of every row at every seed.

        Args:
            chosen: Point by row and task; rows with one point may be absent.

        Returns:
            The cells, those of the first seed first; without rows whose setting is not chosen yet.
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
        """Return the grid's settings, the best of each row and task marked as chosen."""
        cells: dict[Place, list[Cell]] = defaultdict(list)
        for cell in self.grid_cells():
            cells[cell.run.row, cell.run.task].append(cell)
        return [
            candidate
            for place, group in cells.items()
            for candidate in _marked(_candidates(place, group), group[0].config.train.select_mode)
        ]

    def _cell(self, row: str, task: str | None, seed: int, point: Point) -> Cell:
        return self.maker.make(RunKey(row, seed, task), row_overrides(self.spec, row), point)


def choices(candidates: Sequence[Candidate]) -> dict[Place, Point]:
    """Return the chosen points by row and task."""
    return {(c.row, c.task): c.point for c in candidates if c.chosen}


def without_choice(candidates: Sequence[Candidate]) -> dict[Place, str]:
    """Return why there is nothing to choose from, by row and task."""
    groups: dict[Place, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.row, candidate.task].append(candidate)
    return {
        place: _nothing_to_choose(group)
        for place, group in groups.items()
        if not any(candidate.chosen for candidate in group)
    }


def _nothing_to_choose(group: Sequence[Candidate]) -> str:
    num_cells = sum(len(candidate.values) for candidate in group)
    num_gaps = sum(len(candidate.gaps) for candidate in group)
    if num_gaps == num_cells:
        return f"failed: no finite validation value in any of {num_cells} cells"
    return (
        "failed: no setting of the grid has a finite validation value at every seed, "
        f"{num_gaps} of {num_cells} cells have none"
    )


def _candidates(place: Place, cells: Sequence[Cell]) -> list[Candidate]:
    summaries = [RunSummary.read(cell.run_dir) if cell.finished else None for cell in cells]
    values: dict[tuple[tuple[str, float], ...], dict[int, float]] = defaultdict(dict)
    data: dict[tuple[tuple[str, float], ...], set[str]] = defaultdict(set)
    for cell, summary in zip(cells, summaries, strict=True):
        value = None if summary is None else summary.selected_value
        values[cell.point][cell.run.seed] = math.nan if value is None else value
        data[cell.point] |= {str(summary.data_fingerprint)} if summary else set()
    return [
        Candidate(*place, dict(point), by_seed, data=frozenset(data[point]))
        for point, by_seed in values.items()
    ]


def _marked(group: Sequence[Candidate], mode: str) -> list[Candidate]:
    """The candidates, the best of those with all their values marked; of equal ones the first."""
    complete = [c for c in group if not c.gaps]
    if not complete:
        return list(group)
    best = (min if mode == "min" else max)(complete, key=lambda c: c.mean)
    return [dataclasses.replace(c, chosen=True) if c is best else c for c in group]
