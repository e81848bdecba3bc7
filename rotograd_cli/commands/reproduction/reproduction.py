"""``rotograd reproduce``: plan, train what is missing, choose on validation, show the table."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rotograd_cli.commands.reproduction.arguments import Arguments
from rotograd_cli.commands.reproduction.cells import Cell, CellMaker, unique
from rotograd_cli.commands.reproduction.estimate import plan_table
from rotograd_cli.commands.reproduction.grid import grid_notes, write_grid
from rotograd_cli.commands.reproduction.launching import launch
from rotograd_cli.commands.reproduction.plan import (
    Candidate,
    Place,
    Planner,
    choices,
    without_choice,
)
from rotograd_cli.commands.reproduction.probe import measured_seconds
from rotograd_cli.commands.reproduction.settings import composing, own_config
from rotograd_cli.errors import NonFiniteError
from rotograd_cli.runs.building import build
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.command import to_seeds
from rotograd_cli.tables.formats import write_table
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.results import collect
from rotograd_cli.tables.runs import RunKey, read_run
from rotograd_cli.tables.spec import TableSpec, row_label, select_rows
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
        self.arguments = arguments
        self.config = own_config(arguments)
        self.spec = select_rows(self.config.table, self.config.methods)
        self.seeds = to_seeds(self.config.seeds) or list(range(self.spec.seeds))
        maker = CellMaker([*arguments.runs, *arguments.search_path], self.spec.name)
        self.planner = Planner(self.spec, maker, self.seeds)
        with composing():
            self.grid_cells = self.planner.grid_cells()
            self._choose(self._finished_candidates())

    def _choose(self, candidates: list[Candidate]) -> None:
        """Take the best of the grid, and plan its runs at every seed."""
        self.candidates = candidates
        self.final_cells = self.planner.final_cells(choices(candidates))

    def _finished_candidates(self) -> list[Candidate]:
        """Candidates of the rows whose runs of the grid are all there."""
        pending = {(c.run.row, c.run.task) for c in self.grid_cells if not c.finished}
        return [c for c in self.planner.candidates() if (c.row, c.task) not in pending]

    def plan(self) -> tuple[list[str], list[list[str]], str]:
        """Return what there is to do: heads, rows and title of a table."""
        num_final = {place: len(self.seeds) for place in self.planner.places()}
        return plan_table(self.spec, self.grid_cells, self.final_cells, num_final, self._measured())

    def _measured(self) -> dict[str, float]:
        """Measure seconds of a run of rows without a finished one, as long as ``PROBING_S`` lasts.

        Raises:
            RotogradError: If a run cannot be built.
        """
        end = time.monotonic() + PROBING_S
        seconds = {}
        for row, cell in self._unmeasured().items():
            if time.monotonic() < end:
                with suppress(NonFiniteError):  # training will say so, run by run
                    seconds[row] = measured_seconds(cell.config)
        return seconds

    def _unmeasured(self) -> dict[str, Cell]:
        """Return a cell of every row that has no finished one."""
        done = {cell.run.row for cell in self.cells if cell.finished}
        first: dict[str, Cell] = {}
        for cell in self.cells:
            if cell.run.row not in done:
                first.setdefault(cell.run.row, cell)
        return first

    def check(self) -> None:
        """Build one pending run of every row, so that what cannot run is refused before training.

        Raises:
            RotogradError: If data are missing, or a component is refused or does not fit.
        """
        pending = reversed(_pending(self.cells))
        for cell in {cell.run.row: cell for cell in pending}.values():
            build(cell.config)

    def run(self) -> None:
        """Train the grid, chooses, trains the rest; finished cells are left as they are."""
        self._launch(self.grid_cells)
        with composing():
            self._choose(self.planner.candidates())
        self._launch(self.final_cells)

    def _launch(self, cells: Sequence[Cell]) -> None:
        launch(_pending(cells), [*self.arguments.launcher, *self.arguments.search_path])

    def failures(self) -> list[str]:
        """Return why cells are not finished, and why rows have no choice."""
        results = {cell.run_dir: _result(cell) for cell in unique(self.cells)}
        cells = [f"{f}: {result}" for f, result in results.items() if result != "finished"]
        reasons = without_choice(self.candidates)
        return [*cells, *(f"{self._label(place)}: {why}" for place, why in reasons.items())]

    def _label(self, place: Place) -> str:
        row, task = place
        return " ".join(filter(None, (row_label(self.spec, row), task)))

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
        reasons = without_choice(self.candidates)
        done = {*choices(self.candidates), *reasons}
        open_places = {place for place in self.planner.places() if self._has_grid(place)} - done
        reasons |= dict.fromkeys(open_places, "grid not finished")
        return {
            RunKey(row, seed, task): reason
            for (row, task), reason in reasons.items()
            for seed in self.seeds
        }

    def _has_grid(self, place: Place) -> bool:
        return len(self.planner.points(place[0])) > 1

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


def _result(cell: Cell) -> str:
    """``finished``, or in words why it is not."""
    summary = RunSummary.read(cell.run_dir)
    if summary is None:
        return "no result"
    if cell.finished:
        return summary.outcome
    return summary.error or f"{summary.status}, not finished"
