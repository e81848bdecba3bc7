"""The runs of a table: which settings there are."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, ValueNode
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.commands.reproduction.cells import Cell, Folders, Place, Point, Setting
from rotograd_cli.config.lookup import node_at
from rotograd_cli.config.overrides import composed
from rotograd_cli.errors import ConfigError, override_value
from rotograd_cli.tables.runs import RunKey
from rotograd_cli.tables.spec import TableSpec

METHOD_PREFIX = "method_optimizer"
"""Grid keys that begin with it are for rows whose method has parameters of its own."""


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

    def check_rows(self) -> None:
        """Refuse two rows that train the same runs.

        Raises:
            ConfigError: If there are two, such as a misspelt row that trains the default method.
        """
        first: dict[str, str] = {}
        for row, spec in self.spec.rows.items():
            composition = OmegaConf.to_container(self._row(row))
            content = repr((spec.per_task, composition))
            other = first.setdefault(content, row)
            if other != row:
                raise ConfigError(
                    f"`table.rows.{row}` must train other runs than row {other!r}, got overrides "
                    f"{spec.overrides}; set them: table.rows.{row}.overrides=[method=NAME]"
                )

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
