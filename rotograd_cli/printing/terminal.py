"""A grid on the terminal."""

import os
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rotograd_cli.printing.grid import Entry, Grid
from rotograd_cli.printing.streams import encodable

Justify = Literal["left", "right"]
PIPE_WIDTH = 160
"""Columns of an output that is no terminal and has no COLUMNS."""
STYLES = {1: "bold green", 2: "underline", None: ""}
SUFFIXES = {1: " (1)", 2: " (2)", None: ""}
"""Ranks without colour: in a file, a pipe, or for a reader who does not see it."""


def print_grid(grid: Grid) -> None:
    """Print a grid to standard output, complete even where the terminal is narrow."""
    has_width = Console().is_terminal or "COLUMNS" in os.environ
    # without markup: the brackets of tasks=[left,right] are no style
    console = Console(highlight=False, markup=False, width=None if has_width else PIPE_WIDTH)
    for part in fitting(grid, console):
        console.print(part)


def fitting(grid: Grid, console: Console) -> list[Table]:
    """Cut a grid that is too wide for a terminal into several tables.

    Args:
        grid: Table of texts.
        console: Where it will be printed.

    Returns:
        Tables in characters that the terminal has, the first one with the title. Each repeats the
        first column; none is wider than the terminal, unless two columns are.
    """
    first, *others = range(len(grid.heads))
    parts = [[first]]
    for index in others:
        part = parts[-1]
        is_wide = _width(grid.select([*part, index]), console) > console.width
        if is_wide and len(part) > 1:
            parts.append([first])
        parts[-1].append(index)
    tables = [_rich(grid.select(part), console) for part in parts]
    tables[0].title = _text(grid.title, console)
    return tables


def _width(grid: Grid, console: Console) -> int:
    unlimited = console.options.update(width=10_000)
    return console.measure(_rich(grid, console), options=unlimited).maximum


def _rich(grid: Grid, console: Console) -> Table:
    table = Table()
    for index, head in enumerate(grid.heads):
        justify: Justify = "left" if index < grid.num_labels else "right"
        # folded where two columns are too wide: nothing is left out
        table.add_column(_text(head, console), justify=justify, overflow="fold")
    for row in grid.rows:
        table.add_row(*(_marked(entry, console) for entry in row))
    return table


def _marked(entry: Entry, console: Console) -> Text:
    return _text(f"{entry.text}{SUFFIXES[entry.rank]}", console, STYLES[entry.rank])


def _text(text: str, console: Console, style: str = "") -> Text:
    """A text in the characters of the terminal, so that widths are measured of what is printed."""
    return Text(encodable(text, console.encoding), style=style)
