"""Refuses a table that its types allow and that cannot be built."""

import re
from collections.abc import Iterator

from rotograd_cli.bounds import check_fields
from rotograd_cli.errors import ConfigError
from rotograd_cli.tables.columns import column_faults
from rotograd_cli.tables.spec import GridSpec, PaperSpec, TableSpec, unknown


def check_spec(spec: TableSpec) -> None:
    """Refuse a table that refers to what it does not have."""
    for name, column in spec.columns.items():
        check_fields(column, f"table.columns.{name}.")
    for fault in _faults(spec):
        raise ConfigError(fault)


def _faults(spec: TableSpec) -> Iterator[str]:
    """The faults of a table that its types do not exclude; later ones presume earlier ones."""
    if not re.fullmatch(r"[\w.-]+", spec.name):
        yield f"`table.name` must be a word (it names files), got {spec.name!r}."
    for key in ("rows", "columns"):
        if not getattr(spec, key):
            yield f"`table.{key}` must have at least one entry, got none."
    yield from unknown("base", [spec.base], spec.rows)
    yield from unknown("compare_with", [spec.compare_with], spec.rows)
    for name, row in spec.rows.items():
        if row.per_task and not spec.tasks:
            yield f"`table.tasks` must name the tasks that per_task row {name!r} trains, got []."
    yield from column_faults(spec)
    if spec.grid is not None:
        yield from _faults_of_grid(spec.grid)
    if spec.paper is not None:
        yield from _faults_of_paper(spec, spec.paper)


def _faults_of_grid(grid: GridSpec) -> Iterator[str]:
    lists = {f"values.{key}": values for key, values in grid.values.items()}
    if grid.values and not grid.seeds:
        yield "`table.grid.seeds` must not be empty where there are values; table.grid.seeds=[0]."
    for key, entries in lists.items():
        if not entries:
            yield f"`table.grid.{key}` must not be empty; table.grid=null for no grid."


def _faults_of_paper(spec: TableSpec, paper: PaperSpec) -> Iterator[str]:
    yield from unknown("paper.columns", paper.columns, spec.columns)
    yield from unknown("paper.rows", paper.rows, spec.rows)
    for row, cells in paper.rows.items():
        yield from unknown(f"paper.rows.{row}", cells, spec.columns)
        for column in cells:
            try:
                spec.printed(row, column)
            except TypeError:
                yield (
                    f"`table.paper.rows.{row}.{column}` must be a number, [value, spread] or "
                    f"[value, spread, mark], got {cells[column]!r}."
                )
