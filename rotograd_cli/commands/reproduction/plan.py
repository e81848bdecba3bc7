"""Which cells a table needs: first those of its grid, then the chosen settings at every seed."""

import dataclasses
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig

from rotograd_cli.runs import identity
from rotograd_cli.runs.config import TrainConfig, to_train_config
from rotograd_cli.runs.overrides import composed
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.runs import RunKey
from rotograd_cli.tables.spec import TableSpec

METHOD_PREFIX = "method_optimizer"
"""Grid keys that begin with it are for rows whose method has parameters of its own."""

Point = dict[str, float]
"""Values of the grid's keys."""
Place = tuple[str, str | None]
"""A row and, of rows that are trained task by task, the task."""
T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """One run of a table, found by what determines its result."""

    run: RunKey
    point: tuple[tuple[str, float], ...]
    """Values of the grid's keys."""
    overrides: tuple[str, ...]
    """Overrides of ``rotograd train``."""
    config: TrainConfig
    run_dir: Path

    @property
    def place(self) -> Place:
        """Row and task."""
        return self.run.row, self.run.task

    @property
    def summary(self) -> RunSummary | None:
        """Summary of the run once it is finished."""
        return finished_summary(self.run_dir, self.config)

    @property
    def finished(self) -> bool:
        """Whether the run is there and was trained with exactly this configuration."""
        return self.summary is not None


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
    def place(self) -> Place:
        """Row and task."""
        return self.row, self.task

    @property
    def mean(self) -> float:
        """Mean over the grid's seeds; NaN if any is missing."""
        return math.nan if self.gaps else statistics.fmean(self.values.values())

    @property
    def gaps(self) -> list[int]:
        """Seeds without a value: a setting that has any is no candidate for the choice."""
        return [seed for seed, value in self.values.items() if not math.isfinite(value)]


class Planner:
    """Cells of a table. Hydra must be running (:func:`composing`).

    Args:
        spec: Table with the rows to train.
        seeds: Seeds of every row.
        overrides: Overrides of every run, after the table's own.
    """

    def __init__(self, spec: TableSpec, seeds: Sequence[int], overrides: Sequence[str]) -> None:
        self.spec = spec
        self.seeds = list(seeds)
        self.overrides = list(overrides)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._folders: dict[Path, dict[str | None, Path]] = {}

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
            self._cell(RunKey(row, seed, task), point)
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
                    cells.append(self._cell(RunKey(row, seed, task), point))
        return cells

    def _cell(self, run: RunKey, point: Point) -> Cell:
        task = [] if run.task is None else [f"tasks=[{run.task}]"]
        grid = [f"{key}={value!r}" for key, value in point.items()]
        setting = (*self.spec.overrides_of(run.row), *task, *self.overrides, *grid)
        if setting not in self._composed:
            self._composed[setting] = composed("train", setting)
        composition = self._composed[setting]
        composition.seed = run.seed
        config = to_train_config(composition)
        overrides = (*setting, f"seed={run.seed}", *self._logger_group(config))
        return Cell(run, tuple(point.items()), overrides, config, self._run_dir(config))

    def _run_dir(self, config: TrainConfig) -> Path:
        """Return the folder that holds the run, else a new one.

        An earlier version gave a run another name: it is found by its content.
        """
        cells = Path(config.paths.output_dir) / "cells"
        method = str(config.method["_target_"]).rpartition(".")[2].lower()
        key = identity.key(asdict(config))
        named = cells / f"{method}-{key}"
        if named.exists():
            return named
        if cells not in self._folders:
            self._folders[cells] = identity.folders_by_key(cells)
        return self._folders[cells].get(key, named)

    def _logger_group(self, config: TrainConfig) -> list[str]:
        set_by_user = any(word.lstrip("+").startswith("logger.group=") for word in self.overrides)
        has_group = isinstance(config.logger, Mapping) and "group" in config.logger
        return [f"logger.group={self.spec.name}"] if has_group and not set_by_user else []


def finished_summary(run_dir: Path, config: TrainConfig) -> RunSummary | None:
    """Return the summary of a finished run of exactly this configuration; None if there is none."""
    summary = RunSummary.read(run_dir)
    if summary is None or not summary.is_complete or not identity.holds_run(run_dir, config):
        return None
    return summary


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells, each folder once."""
    return list({cell.run_dir: cell for cell in cells}.values())


def candidates(grid_cells: Iterable[Cell]) -> list[Candidate]:
    """Return the grid's settings, the best of each row and task marked as chosen."""
    result: list[Candidate] = []
    for cells in _grouped(grid_cells, "place").values():
        settings = [_candidate(group) for group in _grouped(cells, "point").values()]
        result += _marked(settings, cells[0].config.train.select_mode)
    return result


def choices(candidates: Sequence[Candidate]) -> dict[Place, Point]:
    """Return the chosen points by row and task."""
    return {c.place: c.point for c in candidates if c.chosen}


def without_choice(candidates: Sequence[Candidate]) -> dict[Place, str]:
    """Return why there is nothing to choose from, by row and task."""
    return {
        place: _nothing_to_choose(group)
        for place, group in _grouped(candidates, "place").items()
        if not any(candidate.chosen for candidate in group)
    }


def _nothing_to_choose(group: Sequence[Candidate]) -> str:
    num_cells = sum(len(candidate.values) for candidate in group)
    num_gaps = sum(len(candidate.gaps) for candidate in group)
    return (
        "failed: no setting of the grid has a finite validation value at every seed, "
        f"{num_gaps} of {num_cells} cells have none"
    )


def _candidate(cells: Sequence[Cell]) -> Candidate:
    """A setting from its cells, one per seed."""
    summaries = {cell.run.seed: cell.summary for cell in cells}
    values = {seed: _selected_value(summary) for seed, summary in summaries.items()}
    data = frozenset(str(s.data_fingerprint) for s in summaries.values() if s is not None)
    return Candidate(*cells[0].place, dict(cells[0].point), values, data=data)


def _selected_value(summary: RunSummary | None) -> float:
    if summary is None or summary.selected_value is None:
        return math.nan
    return summary.selected_value


def _marked(group: Sequence[Candidate], mode: str) -> list[Candidate]:
    """The candidates, the best of those with all their values marked; of equal ones the first."""
    complete = [c for c in group if not c.gaps]
    if not complete:
        return list(group)
    best = (min if mode == "min" else max)(complete, key=lambda c: c.mean)
    return [dataclasses.replace(c, chosen=True) if c is best else c for c in group]


def _grouped(items: Iterable[T], attribute: str) -> dict[Any, list[T]]:
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[attrgetter(attribute)(item)].append(item)
    return groups
