"""What several commands print."""

import os
from collections.abc import Iterable
from pathlib import Path

from rotograd_cli.printing.terminal import print_grid
from rotograd_cli.tables.formats import grids, sentences
from rotograd_cli.tables.parts import Table


def print_results(table: Table) -> None:
    """Print a table of results and the notes below it."""
    for grid in grids(table):
        print_grid(grid)
    for line in sentences(table, "(1), bold", "(2), underlined"):
        print(line)


def print_files(files: Iterable[Path]) -> None:
    """Name the files that a command wrote."""
    print(f"Files: {', '.join(os.path.relpath(file) for file in files)}")
