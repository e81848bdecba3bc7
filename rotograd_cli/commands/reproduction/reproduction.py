"""``rotograd reproduce``: what is asked for; plan, train, choose on validation, show the table."""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rotograd_cli.commands.reproduction import plan
from rotograd_cli.commands.reproduction.estimate import measured_seconds, plan_table
from rotograd_cli.commands.reproduction.grid import grid_notes, write_grid
from rotograd_cli.commands.reproduction.launching import launch
from rotograd_cli.commands.reproduction.plan import Cell, Planner, unique
from rotograd_cli.commands.support.hydra_app import parsed, plain_parser
from rotograd_cli.errors import ConfigError, NonFiniteError
from rotograd_cli.printing.grid import Grid
from rotograd_cli.runs.arguments import ready, search_path
from rotograd_cli.runs.building import build
from rotograd_cli.runs.compose import composing
from rotograd_cli.runs.config import typed
from rotograd_cli.runs.overrides import composed
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.command import to_seeds
from rotograd_cli.tables.formats import write_table
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.results import collect
from rotograd_cli.tables.runs import RunKey, read_run
from rotograd_cli.tables.spec import TableSpec, check_spec, select_rows
from rotograd_cli.tables.table import build_table

PROBING_S = 20.0
"""Seconds after which no other row is timed for the plan."""
TABLE_KEYS = ("table", "seeds", "methods", "statistic", "plan", "output")
FIGURE_KEYS = ("figure", "output")
LAUNCHER_KEYS = ("hydra", "launcher")


@dataclass
class Arguments:
    """Overrides by what they are for, each with the user's folder of YAML files."""

    figure: list[str] = field(default_factory=list)
    table: list[str] = field(default_factory=list)
    launcher: list[str] = field(default_factory=list)
    """For Hydra: the choice of a launcher and its options."""
    runs: list[str] = field(default_factory=list)


@dataclass
class ReproduceConfig:
    """The command's own keys; ``conf/reproduce.yaml`` says what each means."""

    table: TableSpec = field(default_factory=TableSpec)
    seeds: Any = None
    methods: list[str] | None = None
    statistic: str | None = None
    plan: bool = False
    output: str | None = None


def parse(command: str, arguments: Sequence[str]) -> Arguments:
    """Sort the arguments of a command.

    Args:
        command: ``reproduce`` or ``plot``.
        arguments: What follows the command.

    Raises:
        ConfigError: If an option is unknown or an argument is no override.
    """
    options = parsed(plain_parser(), command, ready(arguments))
    result = Arguments()
    lists = dict.fromkeys(TABLE_KEYS, result.table) | dict.fromkeys(LAUNCHER_KEYS, result.launcher)
    if command == "plot":
        lists |= dict.fromkeys(FIGURE_KEYS, result.figure)
    for override in options.overrides:
        first = re.split("[./]", override.partition("=")[0].lstrip("+~"))[0]
        if first not in lists:
            _check_of_run(override)
        lists.get(first, result.runs).append(override)
    if options.config_dir is not None:
        for overrides in vars(result).values():
            overrides.append(search_path(Path(options.config_dir)))
    return result


def _check_of_run(override: str) -> None:
    key, equals, _ = override.partition("=")
    if key == "seed":
        raise ConfigError("`seed` is set by the table; seeds=3 or seeds=[0,1] choose seeds.")
    if key in ("method", "experiment"):
        raise ConfigError(
            f"`{key}` is set by the table; methods=[NAME,...] chooses rows, and a table of "
            "your own is a file in DIR/table with --config-dir DIR."
        )
    if not equals and not key.startswith("~"):
        raise ConfigError(
            f"An override must read KEY=VALUE, got {override!r}; did you mean table={override}?"
        )


def reproduce_config(overrides: Sequence[str]) -> ReproduceConfig:
    """Compose and check the command's own configuration.

    Raises:
        ConfigError: If an override is wrong, or a key missing, of a wrong type or out of range.
    """
    with composing(reproduce_schema=ReproduceConfig):
        result = typed(composed("reproduce", overrides), ReproduceConfig)
    check_spec(result.table, result.statistic)
    to_seeds(result.seeds)
    return result


class Reproduction:
    """One table: what it needs, what of it is there, and the table made of that.

    Args:
        arguments: The command line.

    Raises:
        ConfigError: If an override is wrong, or a cell cannot be composed.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.launcher = arguments.launcher
        self.config = reproduce_config(arguments.table)
        self.spec = select_rows(self.config.table, self.config.methods)
        self.seeds = to_seeds(self.config.seeds) or list(range(self.spec.seeds))
        self.planner = Planner(self.spec, self.seeds, arguments.runs)
        with composing():
            self.grid_cells = self.planner.grid_cells()
            pending = {cell.place for cell in _pending(self.grid_cells)}
            self._choose([cell for cell in self.grid_cells if cell.place not in pending])

    def _choose(self, grid_cells: Sequence[Cell]) -> None:
        """Take the best of the grid, and plan its runs at every seed."""
        self.candidates = plan.candidates(grid_cells)
        self.final_cells = self.planner.final_cells(plan.choices(self.candidates))

    def plan(self) -> Grid:
        """Return what there is to do."""
        return plan_table(self.planner, self.grid_cells, self.final_cells, self._measured())

    def _measured(self) -> dict[str, float]:
        """Measure seconds of a run of rows without a finished one, as long as ``PROBING_S`` lasts.

        Raises:
            RotogradError: If a run cannot be built.
        """
        end = time.monotonic() + PROBING_S
        done = {cell.run.row for cell in self.cells if cell.finished}
        seconds = {}
        for row, cell in _one_per_row(self.cells).items():
            if row not in done and time.monotonic() < end:
                with suppress(NonFiniteError):  # training will say so, run by run
                    seconds[row] = measured_seconds(cell.config)
        return seconds

    def check(self) -> None:
        """Build one pending run of every row, so that what cannot run is refused before training.

        Raises:
            RotogradError: If data are missing, or a component is refused or does not fit.
        """
        for cell in _one_per_row(_pending(self.cells)).values():
            build(cell.config)

    def run(self) -> None:
        """Train the grid, chooses, trains the rest; finished cells are left as they are."""
        launch(_pending(self.grid_cells), self.launcher)
        with composing():
            self._choose(self.grid_cells)
        launch(_pending(self.final_cells), self.launcher)

    def failures(self) -> list[str]:
        """Return why cells are not finished, and why rows have no choice."""
        results = {cell.run_dir: _result(cell) for cell in unique(self.cells)}
        cells = [f"{f}: {result}" for f, result in results.items() if result != "finished"]
        reasons = plan.without_choice(self.candidates)
        return [*cells, *(f"{place.label(self.spec)}: {why}" for place, why in reasons.items())]

    def table(self, spec: TableSpec | None = None) -> Table:
        """Build the table of what is there; what is missing is marked.

        Args:
            spec: Table with other columns and the same rows; None takes the table itself.

        Returns:
            The table.
        """
        spec = spec or self.spec
        runs = {cell.run: read_run(cell.run_dir) for cell in self.final_cells if cell.finished}
        results = collect(spec, runs, self.seeds, self._not_chosen())
        notes = grid_notes(spec, self.candidates)
        return build_table(spec, results, statistic=self.config.statistic, notes=notes)

    def _not_chosen(self) -> dict[RunKey, str]:
        """Reason by cell whose setting the grid did not give."""
        reasons = dict.fromkeys((cell.place for cell in self.grid_cells), "grid not finished")
        reasons |= plan.without_choice(self.candidates)
        for place in plan.choices(self.candidates):
            del reasons[place]
        return {
            RunKey(place.row, seed, place.task): reason
            for place, reason in reasons.items()
            for seed in self.seeds
        }

    def write(self, table: Table) -> list[Path]:
        """Write the table's files, and the grid's."""
        output = Path(self.config.output).expanduser() if self.config.output else self.folder
        files = list(write_table(table, output))
        return [*files, *write_grid(self.candidates, output)]

    @property
    def cells(self) -> list[Cell]:
        """All cells, those of the grid first; one may be in both."""
        return [*self.grid_cells, *self.final_cells]

    @property
    def folder(self) -> Path:
        """Where the table's files go by default."""
        return self.cells[0].run_dir.parent.parent / "tables" / self.spec.name


def _pending(cells: Sequence[Cell]) -> list[Cell]:
    return unique(cell for cell in cells if not cell.finished)


def _one_per_row(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Return the first cell of every row."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.run.row, cell)
    return first


def _result(cell: Cell) -> str:
    """``finished``, or in words why it is not."""
    summary = RunSummary.read(cell.run_dir)
    if summary is None:
        return "no result"
    if cell.finished:
        return summary.outcome
    return summary.error or f"{summary.status}, not finished"
