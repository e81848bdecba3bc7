"""Refuses a table that its types allow and that cannot be built."""

import math
import re
from collections.abc import Iterator

from rotograd_cli.bounds import check_fields
from rotograd_cli.errors import ConfigError
from rotograd_cli.tables.kinds import KINDS, kind_keys, kind_of
from rotograd_cli.tables.runs import grouped
from rotograd_cli.tables.spec import ColumnSpec, GridSpec, PaperSpec, TableSpec, unknown

OPTIONS = ("percent", "count_within", "over")
"""Keys of a column that only some kinds take."""


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
    yield from _faults_of_names(spec)
    yield from _faults_of_columns(spec)
    if spec.grid is not None:
        yield from _faults_of_grid(spec.grid)
    if spec.paper is not None:
        yield from _faults_of_paper(spec, spec.paper)


def _faults_of_names(spec: TableSpec) -> Iterator[str]:
    by_label = grouped((spec.label(row), row) for row in spec.rows)
    for label, rows in by_label.items():
        if len(rows) > 1:
            yield (
                f"`table.rows` must have different names, got {label!r} for {', '.join(rows)}; "
                f"set table.rows.{rows[1]}.label."
            )


def _faults_of_columns(spec: TableSpec) -> Iterator[str]:
    for name, column in spec.columns.items():
        kinds = kind_keys(column)
        if len(kinds) != 1:
            *others, last = KINDS
            yield (
                f"`table.columns.{name}` must have exactly one of {', '.join(others)} and {last}, "
                f"got {' and '.join(kinds) or 'none'}."
            )
        kind = kind_of(name, spec)
        for key in OPTIONS:
            value = getattr(column, key)
            if value != getattr(ColumnSpec, key) and key not in kind.OPTIONS:
                beside = " and ".join([*kinds, *sorted(kind.OPTIONS & {"count_within"})])
                yield (
                    f"`table.columns.{name}` takes no {key} beside {beside}, got {value}; leave it "
                    "out."
                )
        yield from kind.faults()


def _faults_of_grid(grid: GridSpec) -> Iterator[str]:
    if grid.values and not grid.seeds:
        yield "`table.grid.seeds` must not be empty where there are values; table.grid.seeds=[0]."
    if not isinstance(grid.widen, bool):
        yield (
            f"`table.grid.widen` must be true or false, got {grid.widen!r}; table.grid.widen=true."
        )
    for key, entries in grid.values.items():
        name = f"`table.grid.values.{key}`"
        if not entries:
            yield f"{name} must not be empty; table.grid=null for no grid."
        for value in entries:
            is_number = type(value) in (int, float) and math.isfinite(value)
            if not is_number and not isinstance(value, (str, bool)):
                yield f"{name} must hold numbers, texts, true or false, got {value!r}."
        if any(value in entries[:index] for index, value in enumerate(entries)):
            yield f"{name} must hold each value once, got {entries}."
    if grid.select is not None and not grid.select.startswith("val/"):
        yield (
            "`table.grid.select` must be a metric on validation, val/loss or val/TASK/METRIC, got "
            f"{grid.select!r}."
        )


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
