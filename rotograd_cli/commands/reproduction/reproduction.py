"""``rotograd reproduce``: plan, train what is missing, choose on validation, show the table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rotograd_cli.commands.reproduction.cells import Cell, unique
from rotograd_cli.commands.reproduction.estimate import plan_table
from rotograd_cli.commands.reproduction.exploring import Explorer
from rotograd_cli.commands.reproduction.grid import grid_notes, write_grid
from rotograd_cli.commands.reproduction.plan import Planner
from rotograd_cli.commands.reproduction.settings import TIMED, Arguments, reproduce_config
from rotograd_cli.config.compose import composing_many
from rotograd_cli.printing.grid import Grid
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.runs import read_run
from rotograd_cli.tables.spec import TableSpec

if TYPE_CHECKING:
    from rotograd_cli.tables.parts import Table


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
        self._attempted: set[Path] = set()
        with composing_many():
            self.planner.check_rows()
        self.refresh()

    def refresh(self) -> None:
        """Follow every search as far as its runs are there, and plan its best at every seed."""
        places = [place for place in self.planner.places() if self.planner.is_searched(place[0])]
        with composing_many():
            self.searches = [
                Explorer(self.planner, place, self._attempted).search() for place in places
            ]
            best = {search.place: search.best for search in self.searches}
            points = {place: each.point for place, each in best.items() if each is not None}
            self.final_cells = self.planner.final_cells(points)

    def plan(self) -> Grid:
        """Return what there is to do, with hours from finished runs or a few timed steps.

        Raises:
            RotogradError: If a run is timed that cannot be built.
        """
        measured = {}
        if self.config.plan == TIMED:
            from rotograd_cli.commands.reproduction.timing import seconds_by_row

            measured = seconds_by_row(self.cells)
        return plan_table(self.planner, self.searches, self.final_cells, measured)

    def check(self) -> None:
        """Refuse, before training, what cannot run.

        Raises:
            RotogradError: If the data set lacks a task or metric of the table, data are missing, or
                a component is refused or does not fit.
        """
        pending = _pending(self.cells)
        if pending:
            from rotograd_cli.commands.reproduction.checking import check_rows, check_table

            check_table(self.spec, self.cells)
            check_rows(pending)

    def run(self) -> None:
        """Train the grid, step by step, then the rest.

        Finished cells are left as they are; failed ones are tried once more.
        """
        from rotograd_cli.commands.reproduction.launching import launch

        cells = self._untried()
        while cells:
            launch(cells, self.launcher)
            self._attempted |= {cell.run_dir for cell in cells}
            self.refresh()
            cells = self._untried()
        launch(_pending(self.final_cells), self.launcher)
        self.refresh()

    def _untried(self) -> list[Cell]:
        """Runs of the grid that are not finished and were not tried."""
        pending = _pending(self.grid_cells)
        return [cell for cell in pending if cell.run_dir not in self._attempted]

    def failures(self) -> list[str]:
        """Return why cells are not finished, and why rows have no choice."""
        results = {str(cell.run_dir): _result(cell) for cell in self.cells}
        results |= {self.spec.label(*s.place): s.failure or "finished" for s in self.searches}
        return [f"{name}: {why}" for name, why in results.items() if why != "finished"]

    def table(self, spec: TableSpec | None = None) -> "Table":
        """Build the table of what is there; what is missing is marked.

        Args:
            spec: Table with other columns and the same rows; None takes the table itself.

        Returns:
            The table.
        """
        from rotograd_cli.tables.results import collect
        from rotograd_cli.tables.table import build_table

        spec = spec or self.spec
        runs = {cell.run: read_run(cell.run_dir) for cell in self.final_cells if cell.finished}
        reasons = {search.place: search.failure for search in self.searches}
        results = collect(spec, runs, self.seeds, reasons)
        notes = grid_notes(spec, self.searches)
        return build_table(spec, results, statistic=self.config.statistic, notes=notes)

    def write(self, table: "Table") -> list[Path]:
        """Write the table's files, and the grid's."""
        from rotograd_cli.tables.formats import write_table

        output = Path(self.config.output).expanduser() if self.config.output else self.folder
        files = list(write_table(table, output, self.config.latex))
        return [*files, *write_grid(self.searches, output)]

    @property
    def grid_cells(self) -> list[Cell]:
        """Cells of the grid, as far as it is known which are needed."""
        return [cell for search in self.searches for cell in search.cells]

    @property
    def cells(self) -> list[Cell]:
        """All cells, those of the grid first."""
        return unique([*self.grid_cells, *self.final_cells])

    @property
    def folder(self) -> Path:
        """Where the table's files go by default."""
        return self.cells[0].setting.folders.output_dir / "tables" / self.spec.name


def _pending(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells to train, each folder once."""
    return list({cell.run_dir: cell for cell in cells if not cell.finished}.values())


def _result(cell: Cell) -> str:
    """``finished``, or in words why it is not."""
    summary = RunSummary.read(cell.run_dir)
    if summary is None:
        return "no result"
    if cell.finished:
        return summary.outcome
    return summary.error or f"{summary.status}, not finished"
