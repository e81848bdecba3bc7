"""What the grid of a table found, for figures of it."""

import math
from pathlib import Path

from rotograd_cli.commands.reproduction.reproduction import Reproduction
from rotograd_cli.commands.reproduction.settings import Arguments
from rotograd_cli.commands.support.figure_data import nothing_trained, one_table_each
from rotograd_cli.errors import ConfigError
from rotograd_cli.figures.base import SearchFigure
from rotograd_cli.figures.canvas import Drawing
from rotograd_cli.tables.parts import Trial, Tried
from rotograd_cli.tables.spec import TableSpec


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
    if not reproduction.grid_cells:
        raise ConfigError(
            f"Figure {figure.name!r} needs a table with a grid of several values, got {spec.name!r} "
            "without one; '+table.grid.values={model_optimizer.lr:[1e-3,2e-3]}' and "
            "'+table.grid.seeds=[0]' add one."
        )
    tried = _tried(reproduction, spec)
    if not any(math.isfinite(trial.validation) for trial in tried.trials):
        raise nothing_trained(figure.name, spec.name)
    return figure.draw(tried), reproduction.folder


def _tried(reproduction: Reproduction, spec: TableSpec) -> Tried:
    """Return what was tried, of rows that are trained on all tasks at once if there are any."""
    searches = reproduction.searches
    whole = [search for search in searches if search.place[1] is None]
    drawn = whole or searches
    others = [spec.label(*search.place) for search in searches if search not in drawn]
    notes = [f"Not drawn, as they have other metrics: {', '.join(others)}."] if others else []
    keyed = {
        f"{search.place}{index}": (search, candidate)
        for search in drawn
        for index, candidate in enumerate(search.candidates)
    }
    table = _table(reproduction, spec, keyed) if spec.columns else None
    rows = {row.name: row for row in table.rows} if table is not None else {}
    cells = reproduction.grid_cells
    select = next(str(s.select) for s in (cell.summary for cell in cells) if s is not None)
    trials = [
        Trial(
            spec.label(*search.place),
            candidate.point,
            candidate.mean,
            candidate is search.best,
            rows[name].cells if name in rows else {},
        )
        for name, (search, candidate) in keyed.items()
    ]
    return Tried(...)
