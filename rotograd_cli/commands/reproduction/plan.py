"""Which runs a table needs: first those of its grid, then the chosen settings at every seed."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import DictConfig

from rotograd_cli.config.overrides import composed
from rotograd_cli.config.schema import TrainConfig, to_train_config
from rotograd_cli.runs import saved
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.runs import RunKey
from rotograd_cli.tables.spec import TableSpec

METHOD_PREFIX = "method_optimizer"
"""Grid keys that begin with it are for rows whose method has parameters of its own."""

Point = dict[str, float]
"""Values of the grid's keys."""
Place = tuple[str, str | None]
"""A row and, of rows that are trained task by task, the task."""


@dataclass(frozen=True)
class Cell:
    """One run of a table, found by what determines its result."""

    run: RunKey
    point: Point
    """Values of the grid's keys."""
    overrides: Sequence[str]
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
        for row in self.spec.rows:
            for task in self.spec.tasks_of(row):
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
        points = dict(chosen)
        for place in self.places():
            if len(self.points(place[0])) == 1:
                points[place] = self.points(place[0])[0]
        return [
            self._cell(RunKey(row, seed, task), points[row, task])
            for seed in self.seeds
            for row, task in self.places()
            if (row, task) in points
        ]

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
        return Cell(run, point, overrides, config, self._run_dir(config))

    def _run_dir(self, config: TrainConfig) -> Path:
        """Return the folder that holds the run, else a new one.

        An earlier version gave a run another name: it is found by its content.
        """
        cells = Path(config.paths.output_dir) / "cells"
        method = str(config.method["_target_"]).rpartition(".")[2].lower()
        key = saved.key(asdict(config))
        named = cells / f"{method}-{key}"
        if named.exists():
            return named
        if cells not in self._folders:
            self._folders[cells] = saved.folders_by_key(cells)
        return self._folders[cells].get(key, named)

    def _logger_group(self, config: TrainConfig) -> list[str]:
        set_by_user = any(word.lstrip("+").startswith("logger.group=") for word in self.overrides)
        has_group = isinstance(config.logger, Mapping) and "group" in config.logger
        return [f"logger.group={self.spec.name}"] if has_group and not set_by_user else []


def finished_summary(run_dir: Path, config: TrainConfig) -> RunSummary | None:
    """Return the summary of a finished run of exactly this configuration; None if there is none."""
    summary = RunSummary.read(run_dir)
    if summary is None or not summary.is_complete or not saved.holds_run(run_dir, config):
        return None
    return summary


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells, each folder once."""
    return list({cell.run_dir: cell for cell in cells}.values())
