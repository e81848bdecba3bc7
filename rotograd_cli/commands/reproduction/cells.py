"""A cell: one run of a table, found by what determines its result."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import DictConfig

from rotograd_cli.runs import identity
from rotograd_cli.runs.config import TrainConfig, to_train_config
from rotograd_cli.runs.overrides import composed
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.runs import RunKey


@dataclass(frozen=True)
class Cell:
    """One run of a table."""

    run: RunKey
    point: tuple[tuple[str, float], ...]
    """Values of the grid's keys."""
    overrides: tuple[str, ...]
    """Overrides of ``rotograd train``."""
    config: TrainConfig
    run_dir: Path

    @property
    def finished(self) -> bool:
        """Whether the run is there and was trained with exactly this configuration."""
        return is_finished(self.run_dir, self.config)


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells, each folder once."""
    return list({cell.run_dir: cell for cell in cells}.values())


def is_finished(run_dir: Path, config: TrainConfig) -> bool:
    """Whether a folder holds a finished run of a configuration.

    Args:
        run_dir: Run directory.
        config: What was asked for.

    Returns:
        True if its summary says so and its ``config.yaml`` has the same key.
    """
    summary = RunSummary.read(run_dir)
    return summary is not None and summary.is_complete and identity.holds_run(run_dir, config)


def folder_name(config: TrainConfig) -> str:
    """Return the name of a cell's folder: the method and the configuration's key."""
    method = str(config.method["_target_"]).rpartition(".")[2].lower()
    return f"{method}-{identity.key(asdict(config))}"


class CellMaker:
    """Makes cells; Hydra must be running (:func:`hydra.initialize_config_dir`).

    Args:
        overrides: Overrides of every run, after the table's own.
        group: Name that the runs' logger gets as their group, where it has one.
    """

    def __init__(self, overrides: Sequence[str], group: str) -> None:
        self.overrides = list(overrides)
        self.group = group
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._folders: dict[Path, dict[str | None, Path]] = {}

    def make(self, run: RunKey, overrides: Sequence[str], point: Mapping[str, float]) -> Cell:
        """Make a cell of a row.

        Args:
            run: Row, seed and, for a run of one task, the task.
            overrides: Overrides of the row.
            point: Values of the grid's keys.

        Returns:
            The cell.

        Raises:
            ConfigError: If the overrides do not compose or a value is refused.
        """
        task = [] if run.task is None else [f"tasks=[{run.task}]"]
        grid = [f"{key}={value!r}" for key, value in point.items()]
        setting = (*overrides, *task, *self.overrides, *grid)
        composition = self._compose(setting)
        composition.seed = run.seed
        config = to_train_config(composition)
        run_dir = self._run_dir(Path(config.paths.output_dir) / "cells", config)
        own = (f"seed={run.seed}", *self._group(config))
        return Cell(run, tuple(point.items()), (*setting, *own), config, run_dir)

    def _run_dir(self, cells: Path, config: TrainConfig) -> Path:
        """Return the folder that holds the run, else a new one.

        An earlier version gave a run another name: it is found by its content.
        """
        named = cells / folder_name(config)
        if named.exists():
            return named
        if cells not in self._folders:
            self._folders[cells] = identity.folders_by_key(cells)
        return self._folders[cells].get(identity.key(asdict(config)), named)

    def _compose(self, overrides: tuple[str, ...]) -> DictConfig:
        if overrides not in self._composed:
            self._composed[overrides] = composed("train", overrides)
        return self._composed[overrides]

    def _group(self, config: TrainConfig) -> list[str]:
        set_by_user = any(word.lstrip("+").startswith("logger.group=") for word in self.overrides)
        has_group = isinstance(config.logger, Mapping) and "group" in config.logger
        return [f"logger.group={self.group}"] if has_group and not set_by_user else []
