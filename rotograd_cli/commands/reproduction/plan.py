"""The runs of a table: which settings there are, where each run is, whether it is finished."""

import copy
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, ValueNode
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.config.lookup import node_at
from rotograd_cli.config.overrides import composed
from rotograd_cli.config.schema import TrainConfig, to_train_config
from rotograd_cli.errors import override_value
from rotograd_cli.runs import saved
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.runs import RunKey
from rotograd_cli.tables.spec import TableSpec

METHOD_PREFIX = "method_optimizer"
"""Grid keys that begin with it are for rows whose method has parameters of its own."""

Point = dict[str, Any]
"""Values of the grid's keys."""
Place = tuple[str, str | None]
"""A row and, of rows that are trained task by task, the task."""


@dataclass(frozen=True)
class Setting:
    """What a row (and task) trains at every seed, by one point of the grid."""

    overrides: Sequence[str]
    """Overrides of ``rotograd train`` but for the seed."""
    composition: DictConfig = field(repr=False)
    folders: "Folders" = field(repr=False)

    def config(self, seed: int) -> TrainConfig:
        """Return the configuration of the run of a seed."""
        if self._has_value_of_seed:
            return self._converted(seed)
        return dataclasses.replace(self._first, seed=seed)  # at once, where converting is slow

    @cached_property
    def _first(self) -> TrainConfig:
        return self._converted(0)

    def _converted(self, seed: int) -> TrainConfig:
        self.composition.seed = seed
        return to_train_config(self.composition)

    @cached_property
    def _has_value_of_seed(self) -> bool:
        """Whether another key takes its value from the seed."""
        text = str(OmegaConf.to_container(self.composition, resolve=False))
        return re.search(r"\${[^}]*\bseed\b", text) is not None


@dataclass(frozen=True)
class Cell:
    """One run of a table, as it was when it was first looked at."""

    run: RunKey
    point: Point
    """Values of the grid's keys."""
    setting: Setting

    @property
    def place(self) -> Place:
        """Row and task."""
        return self.run.row, self.run.task

    @property
    def overrides(self) -> Sequence[str]:
        """Overrides of ``rotograd train``."""
        return [*self.setting.overrides, f"seed={self.run.seed}"]

    @cached_property
    def config(self) -> TrainConfig:
        """Configuration of the run."""
        return self.setting.config(self.run.seed)

    @cached_property
    def run_dir(self) -> Path:
        """Folder that holds the run, else a new one."""
        return self.setting.folders.folder_of(self.config)

    @cached_property
    def summary(self) -> RunSummary | None:
        """Summary of the run once it is finished."""
        if self.setting.folders.are_empty:
            return None  # without the time that a configuration takes
        return finished_summary(self.run_dir, self.config)

    @property
    def finished(self) -> bool:
        """Whether the run is there and was trained with exactly this configuration."""
        return self.summary is not None

    @cached_property
    def has_failed(self) -> bool:
        """Whether it was tried and failed, for example with a rate at which it diverges."""
        if self.finished or self.setting.folders.are_empty:
            return False
        summary = RunSummary.read(self.run_dir)
        is_failed = summary is not None and summary.status == "failed"
        return is_failed and saved.holds_run(self.run_dir, self.config)


class Folders:
    """Where the runs of all tables are: ``<paths.output_dir>/cells``.

    Args:
        output_dir: ``paths.output_dir``.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = Path(output_dir)
        self._cells = self.output_dir / "cells"

    @property
    def are_empty(self) -> bool:
        """Whether no run is there."""
        return not self._cells.is_dir()

    def folder_of(self, config: TrainConfig) -> Path:
        """Return the folder that holds a run, else a new one.

        An earlier version gave a run another name: it is found by its content.
        """
        method = str(config.method["_target_"]).rpartition(".")[2].lower()
        key = saved.key(asdict(config))
        named = self._cells / f"{method}-{key}"
        return named if named.exists() else self._by_key.get(key, named)

    @cached_property
    def _by_key(self) -> Mapping[str | None, Path]:
        return saved.folders_by_key(self._cells)


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
        self._rows: dict[str, DictConfig] = {}
        self._settings: dict[tuple[str, ...], Setting] = {}
        self._folders: dict[str, Folders] = {}

    def places(self) -> Iterator[Place]:
        """Yield the rows, and each task of rows that are trained task by task."""
        for row in self.spec.rows:
            for task in self.spec.tasks_of(row):
                yield row, task

    def axes(self, row: str) -> dict[str, list[Any]]:
        """Return the grid's values of a row by key; none without a grid."""
        values = {} if self.spec.grid is None else self.spec.grid.values
        has_parameters = self.spec.rows[row].method_grid
        return {
            key: list(entries)
            for key, entries in values.items()
            if has_parameters or not key.startswith(METHOD_PREFIX)
        }

    def is_searched(self, row: str) -> bool:
        """Whether a row has several values to choose from."""
        return any(len(values) > 1 for values in self.axes(row).values())

    def start(self, row: str) -> Point:
        """Return a row's own value of every key of its grid: of a single one the grid's."""
        return {
            key: values[0] if len(values) == 1 else self._own_value(row, key)
            for key, values in self.axes(row).items()
        }

    def final_cells(self, chosen: Mapping[Place, Point]) -> list[Cell]:
        """Return the chosen setting of every row at every seed.

        Args:
            chosen: Point by row and task; rows that have nothing to choose may be absent.

        Returns:
            The cells, those of the first seed first; without rows whose setting is not chosen yet.
        """
        points = dict(chosen)
        for row, task in self.places():
            if not self.is_searched(row):
                points[row, task] = self.start(row)
        return [
            self.cell(RunKey(row, seed, task), points[row, task])
            for seed in self.seeds
            for row, task in self.places()
            if (row, task) in points
        ]

    def cell(self, run: RunKey, point: Point) -> Cell:
        """Return the run of a row, seed and task with a point of the grid."""
        task = {} if run.task is None else {"tasks": [run.task]}
        changes = task | point
        words = [f"{key}={override_value(value)}" for key, value in changes.items()]
        key = (run.row, *words)
        if key not in self._settings:
            self._settings[key] = self._setting(run.row, changes, words)
        return Cell(run, point, self._settings[key])

    def _setting(self, row: str, changes: Mapping[str, Any], words: Sequence[str]) -> Setting:
        common = self._row_overrides(row)
        composition = copy.deepcopy(self._row(row))
        if not _set(composition, changes):
            composition = composed("train", [*common, *words])  # or refused in one line
        overrides = [*common, *words, *self._logger_group(composition)]
        return Setting(overrides, composition, self._folders_of(composition))

    def _row_overrides(self, row: str) -> list[str]:
        return [*self.spec.overrides_of(row), *self.overrides]

    def _row(self, row: str) -> DictConfig:
        """Return the composition that the settings of a row share: composing takes long."""
        if row not in self._rows:
            self._rows[row] = composed("train", self._row_overrides(row))
        return self._rows[row]

    def _own_value(self, row: str, key: str) -> Any:
        value = OmegaConf.select(self._row(row), key)
        is_container = isinstance(value, (DictConfig, ListConfig))
        return OmegaConf.to_container(value, resolve=True) if is_container else value

    def _folders_of(self, composition: DictConfig) -> Folders:
        output_dir = str(composition.paths.output_dir)
        return self._folders.setdefault(output_dir, Folders(output_dir))

    def _logger_group(self, composition: DictConfig) -> list[str]:
        set_by_user = any(word.lstrip("+").startswith("logger.group=") for word in self.overrides)
        logger = composition.logger
        has_group = isinstance(logger, Mapping) and "group" in logger
        return [f"logger.group={self.spec.name}"] if has_group and not set_by_user else []


def _set(composition: DictConfig, changes: Mapping[str, Any]) -> bool:
    """Set values as Hydra does; return False where that takes more than a key with a plain value.

    Choices of a group, keys that are added, and values of a wrong type are left to Hydra.
    """
    try:
        for key, value in changes.items():
            if key != "tasks" and not isinstance(node_at(composition, key), ValueNode):
                return False
            OmegaConf.update(composition, key, value, merge=True)
    except (OmegaConfBaseException, AttributeError, AssertionError):
        return False
    return True


def finished_summary(run_dir: Path, config: TrainConfig) -> RunSummary | None:
    """Return the summary of a finished run of exactly this configuration; None if there is none."""
    summary = RunSummary.read(run_dir)
    if summary is None or not summary.is_complete or not saved.holds_run(run_dir, config):
        return None
    return summary


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells, each run of a table once."""
    return list({(cell.run, *cell.overrides): cell for cell in cells}.values())


def first_of_rows(cells: Iterable[Cell]) -> dict[str, Cell]:
    """Return the first cell of every row."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.run.row, cell)
    return first
