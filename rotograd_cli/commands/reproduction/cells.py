"""A run of a table: its setting, where it is, whether it is finished."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rotograd_cli.config.schema import TrainConfig, to_train_config
from rotograd_cli.runs import saved
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.runs import RunKey

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
        self.cells = self.output_dir / "cells"

    @property
    def are_empty(self) -> bool:
        """Whether no run is there."""
        return not self.cells.is_dir()

    def folder_of(self, config: TrainConfig) -> Path:
        """Return the folder that holds a run, else a new one.

        An earlier version gave a run another name: it is found by its content.
        """
        method = str(config.method["_target_"]).rpartition(".")[2].lower()
        key = saved.key(asdict(config))
        named = self.cells / f"{method}-{key}"
        return named if named.exists() else self._by_key.get(key, named)

    @cached_property
    def _by_key(self) -> Mapping[str | None, Path]:
        return saved.folders_by_key(self.cells)


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
