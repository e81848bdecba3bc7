"""``rotograd plot``: which figure, from which data, into which folder."""

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rotograd_cli.commands.reproduction.settings import Arguments
from rotograd_cli.commands.support.figure_data import beside, drawn_of_tables
from rotograd_cli.commands.support.searched import drawn_of_search
from rotograd_cli.config.components import Constructor
from rotograd_cli.config.compose import composing
from rotograd_cli.config.overrides import composed
from rotograd_cli.config.schema import PlotConfig, typed
from rotograd_cli.errors import ConfigError, hydra_value
from rotograd_cli.figures.base import (
    ComputedFigure,
    Figure,
    RunsFigure,
    SearchFigure,
    TableFigure,
    TablesFigure,
)
from rotograd_cli.figures.canvas import Drawing, save, styled
from rotograd_cli.tables.command import to_patterns
from rotograd_cli.tables.runs import find_runs, run_folders, without_runs

OPTIONS = ("x", "y", "smooth", "band")
"""Keys of the command that a figure takes as options if it has them."""
OUTPUT = Path("outputs/figures")
"""Folder of figures that are made of neither runs nor a table."""
FOLDERS = ("outputs/*", "multirun/*")
"""Where runs are by default: a folder for each data set, and for each sweep."""


@dataclass(frozen=True)
class Plot:
    """A figure that was written."""

    files: Sequence[Path]
    notes: Sequence[str]


def plot(arguments: Arguments) -> Plot:
    """Draw a figure and write it.

    Args:
        arguments: The command line as :func:`parse` sorts it.

    Raises:
        ConfigError: If an override is wrong, nothing is there to draw, or matplotlib is missing.
    """
    with composing():
        config = typed(composed("plot", arguments.figure), PlotConfig)
    figure = Constructor(config.figure, "figure", kind=Figure)()
    _check_options(figure.name, config, arguments)
    with styled():
        drawing, folder = _drawn(figure, config, arguments)
        output = folder if config.output is None else Path(config.output).expanduser()
        return Plot(save(drawing, output, figure.name), drawing.notes)


def _check_options(name: str, config: PlotConfig, arguments: Arguments) -> None:
    """Refuse options that the figure does not have, and what is for runs that are trained."""
    for override in arguments.figure:
        key = override.partition("=")[0]
        if key in OPTIONS and key not in config.figure:
            raise ConfigError(f"Figure {name!r} has no option {key}, got {override}; leave it out.")
    others = [*arguments.runs, *arguments.launcher]
    if config.runs is not None and _given(others):
        raise ConfigError(
            f"`runs` names runs that are there, got {_given(others)[0]} too, which is for runs to "
            "train; leave one of them out."
        )


def _given(overrides: Sequence[str]) -> list[str]:
    """Return what the user wrote: without the folder of YAML files that was added."""
    return [override for override in overrides if not override.startswith("hydra.searchpath=")]


def _drawn(figure: Figure, config: PlotConfig, arguments: Arguments) -> tuple[Drawing, Path]:
    """Return the drawing, and the folder of its files by default."""
    if isinstance(figure, RunsFigure):
        return _of_runs(figure, config, arguments)
    if isinstance(figure, TableFigure | TablesFigure):
        return drawn_of_tables(figure, config, arguments)
    if isinstance(figure, SearchFigure):
        if config.runs is not None:
            raise ConfigError(
                f"Figure {figure.name!r} needs the grid of a table, got runs={config.runs}; leave "
                "it out and name the table, table=NAME."
            )
        return drawn_of_search(figure, arguments)
    assert isinstance(figure, ComputedFigure)
    for override in _given([*arguments.figure, *arguments.table, *arguments.runs]):
        if not override.startswith(("figure", "output=")):
            raise ConfigError(
                f"Figure {figure.name!r} is made of no runs, got {override}; leave it out."
            )
    return figure.draw(), OUTPUT


def _of_runs(figure: RunsFigure, config: PlotConfig, arguments: Arguments) -> tuple[Drawing, Path]:
    if config.runs is None:
        raise ConfigError(
            f"Figure {figure.name!r} needs runs of one data set; add runs=GLOB, for example "
            f"{_example()}."
        )
    if _given(arguments.table):
        raise ConfigError(
            f"Figure {figure.name!r} is drawn from runs, got {_given(arguments.table)[0]}, which "
            "is for a table; leave it out."
        )
    patterns = to_patterns(config.runs)
    runs = find_runs(patterns)
    folder = beside(runs)
    drawing = figure.draw(runs)
    empty = [path for path in without_runs(patterns, runs) if not _is_output(path, config, folder)]
    notes = [f"Left out: {path} has no run in it." for path in empty]
    return dataclasses.replace(drawing, notes=[*drawing.notes, *notes]), folder


def _example() -> str:
    """Return runs that can be named: of the data set or sweep that was begun last."""
    folders = [path for pattern in FOLDERS for path in Path().glob(pattern)]
    with_runs = [path for path in folders if any(run_folders(path))]
    newest = max(with_runs, key=lambda path: path.stat().st_mtime, default=Path("outputs/DATA"))
    return shlex.quote(f"runs={hydra_value(str(newest))}")


def _is_output(path: Path, config: PlotConfig, folder: Path) -> bool:
    """Return whether a folder is that of figures, or in it."""
    output = folder if config.output is None else Path(config.output).expanduser().absolute()
    return any(path.absolute().is_relative_to(each) for each in (folder, output))
