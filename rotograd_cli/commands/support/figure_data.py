"""What figures of tables are drawn from: tables of runs that are there, or that were reproduced."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from rotograd_cli.commands.reproduction.reproduction import Reproduction
from rotograd_cli.commands.reproduction.settings import Arguments
from rotograd_cli.config.compose import composing
from rotograd_cli.config.overrides import composed, explaining
from rotograd_cli.config.schema import PlotConfig
from rotograd_cli.errors import ConfigError
from rotograd_cli.figures.base import OfTables, TableFigure, TablesFigure
from rotograd_cli.figures.canvas import Drawing
from rotograd_cli.tables.command import (
    register_schema,
    table_of_runs,
    to_patterns,
    to_table_command,
)
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.runs import Run, find_runs


def drawn_of_tables(
    figure: TableFigure | TablesFigure, config: PlotConfig, arguments: Arguments
) -> tuple[Drawing, Path]:
    """Draw a figure of tables.

    Returns:
        The drawing, and the folder of its files by default.
    """
    tables = []
    folders = []
    for of_one in one_table_each(figure, config.runs is not None, arguments):
        table, folder = _table(figure, config, of_one)
        tables.append(table)
        folders.append(folder)
    if isinstance(figure, TableFigure):
        return figure.draw(tables[0]), folders[0]
    return figure.draw(tables), folders[0] if len(set(folders)) == 1 else folders[0].parent


def one_table_each(figure: OfTables, has_runs: bool, arguments: Arguments) -> list[Arguments]:
    """Return the arguments of every table: ``table=[a,b]`` are those of ``table=a`` and of b.

    Args:
        figure: Figure, which has a table unless there are runs.
        has_runs: Whether runs are named.
        arguments: The command line.

    Raises:
        ConfigError: If a figure of one table gets several.
    """
    others = [override for override in arguments.table if not override.startswith("table=")]
    chosen = [override for override in arguments.table if override not in others]
    if not chosen and has_runs:
        return [arguments]
    names = _names(chosen[-1]) if chosen else [figure.table]
    if len(names) > 1 and not isinstance(figure, TablesFigure):
        raise ConfigError(f"Figure {figure.name!r} is of one table, got {chosen[-1]}; name one.")
    return [
        dataclasses.replace(arguments, table=[f"table={name}", *others])
        for name in dict.fromkeys(names)
    ]


def _names(override: str) -> list[str]:
    with explaining("plot", [override]):
        value = OverridesParser.create().parse_override(override).value()
    if value is None:
        return ["null"]
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


def _table(
    figure: TableFigure | TablesFigure, config: PlotConfig, arguments: Arguments
) -> tuple[Table, Path]:
    """Return a table with a value in at least one cell, and the folder of its files."""
    if config.runs is None:
        return _reproduced(figure, arguments)
    return _collected(figure, to_patterns(config.runs), arguments)


def _reproduced(figure: TableFigure | TablesFigure, arguments: Arguments) -> tuple[Table, Path]:
    """Return the table of the runs that ``rotograd reproduce`` trained."""
    reproduction = Reproduction(arguments)
    table = reproduction.table(figure.columns_of(reproduction.spec))
    if not _has_values(table):
        raise nothing_trained(figure.name, reproduction.spec.name)
    return table, reproduction.folder


def nothing_trained(figure: str, table: str) -> ConfigError:
    """Return the refusal of a figure of a table without runs."""
    return ConfigError(
        f"Figure {figure!r} needs runs of table {table!r}, got none; train them with rotograd "
        f"reproduce table={table} and the same overrides."
    )


def _collected(
    figure: TableFigure | TablesFigure, patterns: Sequence[str], arguments: Arguments
) -> tuple[Table, Path]:
    """Return the table that ``rotograd table runs=GLOB`` makes."""
    register_schema()
    with composing():
        command = composed("table", ["runs=[]", *arguments.table])
        command.runs = patterns
        table = table_of_runs(to_table_command(command), figure.columns_of)
    if not _has_values(table):
        raise ConfigError(
            f"Figure {figure.name!r} needs finished runs with a value in {table.title!r}, got "
            f"none below {', '.join(patterns)}; rotograd table with the same runs says why."
        )
    return table, beside(find_runs(patterns))


def _has_values(table: Table) -> bool:
    return any(cell.values for row in table.rows for cell in row.cells.values())


def beside(runs: Sequence[Run]) -> Path:
    """Return the folder of figures of runs: in the folder that holds them all."""
    return Path(os.path.commonpath([run.folder.absolute() for run in runs])) / "figures"
