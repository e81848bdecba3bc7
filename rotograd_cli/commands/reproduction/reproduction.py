"""``rotograd reproduce``: plan, train what is missing, choose on validation, show the table."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rotograd_cli.commands.reproduction.estimate import measured_seconds, plan_table
from rotograd_cli.commands.reproduction.grid import grid_notes, searches, write_grid
from rotograd_cli.commands.reproduction.launching import launch
from rotograd_cli.commands.reproduction.plan import Cell, Planner, unique
from rotograd_cli.commands.reproduction.settings import Arguments, reproduce_config
from rotograd_cli.config.compose import composing
from rotograd_cli.errors import NonFiniteError
from rotograd_cli.printing.grid import Grid
from rotograd_cli.runs.building import build
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.formats import write_table
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.results import collect
from rotograd_cli.tables.runs import read_run
from rotograd_cli.tables.spec import TableSpec
from rotograd_cli.tables.table import build_table

PROBING_S = 20.0
"""Seconds after which no other row is timed for the plan."""


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
        self.spec = self.config.table.select(self.config.methods)
        self.seeds = self.config.seeds or list(range(self.spec.seeds))
        self.planner = Planner(self.spec, self.seeds, arguments.runs)
        with composing():
            self.grid_cells = self.planner.grid_cells()
            pending = {cell.place for cell in _pending(self.grid_cells)}
            self._choose([cell for cell in self.grid_cells if cell.place not in pending])

    def _choose(self, grid_cells: Sequence[Cell]) -> None:
        """Take the best of the grid, and plan its runs at every seed."""
        self.searches = searches(grid_cells)
        chosen = {search.place: search.best for search in self.searches}
        points = {place: best.point for place, best in chosen.items() if best is not None}
        self.final_cells = self.planner.final_cells(points)

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
        results = {str(cell.run_dir): _result(cell) for cell in self.cells}
        results |= {self.spec.label(*s.place): s.failure or "finished" for s in self.searches}
        return [f"{name}: {why}" for name, why in results.items() if why != "finished"]

    def table(self, spec: TableSpec | None = None) -> Table:
        """Build the table of what is there; what is missing is marked.

        Args:
            spec: Table with other columns and the same rows; None takes the table itself.

        Returns:
            The table.
        """
        spec = spec or self.spec
        runs = {cell.run: read_run(cell.run_dir) for cell in self.final_cells if cell.finished}
        reasons = {cell.place: "grid not finished" for cell in self.grid_cells}
        reasons |= {search.place: search.failure for search in self.searches}
        results = collect(spec, runs, self.seeds, reasons)
        notes = grid_notes(spec, self.searches)
        return build_table(spec, results, statistic=self.config.statistic, notes=notes)

    def write(self, table: Table) -> list[Path]:
        """Write the table's files, and the grid's."""
        output = Path(self.config.output).expanduser() if self.config.output else self.folder
        files = list(write_table(table, output))
        return [*files, *write_grid(self.searches, output)]

    @property
    def cells(self) -> list[Cell]:
        """All cells, those of the grid first."""
        return unique([*self.grid_cells, *self.final_cells])

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
