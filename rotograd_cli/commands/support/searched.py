"""What the grid of a table found, for figures of it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rotograd_cli.commands.reproduction.reproduction import Reproduction
from rotograd_cli.commands.reproduction.search import Candidate, Search
from rotograd_cli.commands.reproduction.settings import Arguments
from rotograd_cli.commands.support.figure_data import nothing_trained, one_table_each
from rotograd_cli.errors import ConfigError
from rotograd_cli.figures.base import SearchFigure
from rotograd_cli.figures.canvas import Drawing
from rotograd_cli.tables.parts import Table, Trial, Tried
from rotograd_cli.tables.results import collect
from rotograd_cli.tables.runs import RunKey, read_run
from rotograd_cli.tables.spec import TableSpec
from rotograd_cli.tables.table import build_table

Settings = Mapping[str, tuple[Search, Candidate]]
"""What was tried, by a name of its own."""


def drawn_of_search(figure: SearchFigure, arguments: Arguments) -> tuple[Drawing, Path]:
    """Draw a figure of what a grid found.

    Returns:
        The drawing, and the folder of its files by default.

    Raises:
        ConfigError: If the table has no grid, or nothing of it is trained.
    """
    (arguments,) = one_table_each(figure, False, arguments)
    reproduction = Reproduction(arguments)
    spec = figure.columns_of(reproduction.spec)
    if not reproduction.searches:
        raise ConfigError(
            f"Figure {figure.name!r} needs a table whose grid has several values for a row, got "
            f"{spec.name!r} without; reproduce it with "
            "'+table.grid.values={model_optimizer.lr:[1e-3,2e-3]}' '+table.grid.seeds=[0]'."
        )
    searches, notes = _comparable(reproduction.searches, spec)
    settings = {
        f"{search.place}, {index}": (search, candidate)
        for search in searches
        for index, candidate in enumerate(search.candidates)
    }
    if not any(math.isfinite(candidate.mean) for _, candidate in settings.values()):
        raise nothing_trained(figure.name, spec.name)
    return figure.draw(_tried(reproduction, spec, settings, notes)), reproduction.folder


def _comparable(searches: Sequence[Search], spec: TableSpec) -> tuple[list[Search], list[str]]:
    """Return the searches of one validation metric, and a note on those that are left out.

    Networks of single tasks have losses of their own; they are drawn where there is nothing else.
    """
    trained = [search for search in searches if any(cell.finished for cell in search.cells)]
    of_all_tasks = [search for search in trained if search.place[1] is None] or trained
    drawn = [search for search in of_all_tasks if search.metric == of_all_tasks[0].metric]
    others = [spec.label(*search.place) for search in searches if search not in drawn]
    if not others:
        return drawn, []
    why = "they are not trained, of single tasks, or chosen by another validation metric"
    return drawn, [f"Not drawn, as {why}: {', '.join(others)}."]


def _tried(
    reproduction: Reproduction, spec: TableSpec, settings: Settings, notes: Sequence[str]
) -> Tried:
    """Return what was tried, with test results in the columns of a table."""
    table = _results(reproduction, spec, settings) if spec.columns else None
    rows = {} if table is None else {row.name: row for row in table.rows}
    trials = [
        Trial(
            spec.label(*search.place),
            candidate.point,
            candidate.mean,
            candidate is search.best,
            rows[name].cells if name in rows else {},
        )
        for name, (search, candidate) in settings.items()
    ]
    first, candidate = next(iter(settings.values()))
    return Tried(
        spec.title,
        trials,
        first.metric,
        "lower" if first.mode == "min" else "higher",
        list(candidate.values),
        [] if table is None else table.columns,
        notes,
    )


def _results(reproduction: Reproduction, spec: TableSpec, settings: Settings) -> Table:
    """Return a table of what was tried: a row per setting, and the base of the gains."""
    rows = {name: spec.rows[search.place[0]] for name, (search, _) in settings.items()}
    shown = {name: dataclasses.replace(row, shown=True) for name, row in rows.items()}
    base = {name: row for name, row in spec.rows.items() if name == spec.base}
    hidden = {name: dataclasses.replace(row, shown=False) for name, row in base.items()}
    runs = {
        RunKey(name, cell.run.seed, cell.run.task): read_run(cell.run_dir)
        for name, (search, candidate) in settings.items()
        for cell in search.cells
        if cell.point == candidate.point and cell.finished
    }
    of_base = [cell for cell in reproduction.final_cells if cell.run.row == spec.base]
    runs |= {cell.run: read_run(cell.run_dir) for cell in of_base if cell.finished}
    spec = dataclasses.replace(spec, rows={**shown, **hidden})
    seeds = sorted({key.seed for key in runs if key.row in shown})
    results = collect(spec, runs, seeds)
    return build_table(spec, results, statistic=reproduction.config.statistic)
