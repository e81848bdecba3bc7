"""A table on the terminal."""

import rich.table
from rich.text import Text

from rotograd_cli.tables.layout import Entry, Grid, blocks, difference_grid, marks_note, value_grid
from rotograd_cli.tables.parts import Table

STYLES = {1: "bold green", 2: "underline", None: ""}
SUFFIXES = {1: " (1)", 2: " (2)", None: ""}
"""Ranks without colour: in a file, a pipe, or for a reader who does not see it."""


def terminal_tables(table: Table) -> list[rich.table.Table]:
    """The table and the table of differences, wide ones cut into several.

    Args:
        table: Table.

    Returns:
        What :func:`rotograd_cli.runs.report.print_table` prints.
    """
    differences = difference_grid(table)
    grids = blocks(value_grid(table))
    grids += [] if differences is None else blocks(differences, 4)
    return [_rich(grid) for grid in grids]


def terminal_notes(table: Table) -> list[str]:
    """The sentences below."""
    return [*marks_note(table, "(1), bold", "(2), underlined"), *table.footnotes]


def _rich(grid: Grid) -> rich.table.Table:
    result = rich.table.Table(title=Text(grid.title))
    for index, head in enumerate(grid.heads):
        result.add_column(Text(head), justify="right" if index else "left", overflow="fold")
    for row in grid.rows:
        result.add_row(*map(_text, row))
    return result


def _text(entry: Entry) -> Text:
    return Text(f"{entry.text}{SUFFIXES[entry.rank]}", style=STYLES[entry.rank])
