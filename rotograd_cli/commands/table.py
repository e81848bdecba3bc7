"""Print a table of finished runs: rotograd table runs=GLOB [table=NAME] [output=DIR].

usage: rotograd table runs=GLOB [table=NAME] [KEY=VALUE ...]

Trains nothing. The table has a row per method, statistics over seeds, gains against single-task
networks and paired comparisons; with table=NAME also the numbers that a paper prints.

runs=GLOB        run directories, or folders that hold them at any depth: runs='multirun/*'
table=NAME       its rows and columns, and the printed numbers; without it a row per setting
statistic=...    median_std | mean_std | mean_ci95
seeds=5          seeds 0 to 4; seeds=[0,3] only these two; by default all seeds of the runs
methods=[...]    rows to show
output=DIR       writes table.md, table.tex, table.csv and table.json there
latex=...        auto | table | table* | resizebox | split: how table.tex fits a page
--verbose        all footnotes (the files always have them)
--config-dir     a folder of your own YAML files: DIR/table/mine.yaml

docs/tables.md says what the marks, statistics and gains mean.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rotograd_cli.tables.parts import Table

GROUPS = ("table",)


def run(arguments: Sequence[str]) -> int:
    """Build and print the table."""
    from rotograd_cli.commands.support.hydra_app import run_app
    from rotograd_cli.tables.command import register_schema

    register_schema()
    run_app("table", arguments, _table)
    return 0


def _table(config: "DictConfig") -> None:
    from rotograd_cli.tables.command import table_of_runs, to_table_command
    from rotograd_cli.tables.formats import write_table

    command = to_table_command(config)
    table = table_of_runs(command)
    print_results(table, command.verbose)
    if command.output is not None:
        print_files(write_table(table, Path(command.output).expanduser(), command.latex))


def print_results(table: "Table", verbose: bool) -> None:
    """Print a table of results and the notes below it, the details only if asked for."""
    from rotograd_cli.printing.grid import print_grid
    from rotograd_cli.tables.formats import grids, sentences

    for grid in grids(table):
        print_grid(grid)
    print(*sentences(table, "(1) bold", "(2) underlined"), sep="\n")
    if verbose:
        print(*table.details, sep="\n")
    elif table.details:
        print(f"{len(table.details)} more footnotes with --verbose: settings, versions, devices.")


def print_files(files: Iterable[Path]) -> None:
    """Name the files that a command wrote."""
    print(f"Files: {', '.join(os.path.relpath(file) for file in files)}")
