"""What several commands print."""

import os
from collections.abc import Iterable
from pathlib import Path

from rotograd_cli.runs.report import print_table
from rotograd_cli.tables.table import Table
from rotograd_cli.tables.terminal import terminal_notes, terminal_tables


def print_results(table: Table) -> None:
    """Print a table of results and the notes below it."""
    for part in terminal_tables(table):
        print_table(part)
    for line in terminal_notes(table):
        print(line)


def print_files(files: Iterable[Path]) -> None:
    """Name the files that a command wrote."""
    print(f"Files: {', '.join(os.path.relpath(file) for file in files)}")
