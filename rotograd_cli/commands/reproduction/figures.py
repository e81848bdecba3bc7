"""``rotograd plot``: figures of a table's runs."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import MISSING

from rotograd_cli.commands.reproduction.reproduction import Reproduction
from rotograd_cli.commands.reproduction.settings import Arguments
from rotograd_cli.config.compose import composing
from rotograd_cli.config.overrides import composed
from rotograd_cli.config.schema import suggest, typed
from rotograd_cli.errors import ConfigError
from rotograd_cli.files import replace_file
from rotograd_cli.tables.parts import Cell, Table
from rotograd_cli.tables.spec import ColumnSpec, TableSpec


@dataclass
class FigureSpec:
    """A figure; one file of ``conf/figure`` each."""

    name: str = MISSING
    """Name of the files that are written."""
    kind: Annotated[str, Literal["box", "gains"]] = MISSING
    table: str = MISSING
    """Table whose runs are drawn."""
    columns: list[str] = field(default_factory=list)
    """``box``: the table's column; ``gains``: tasks, empty for all."""
    title: str = ""
    x_label: str = ""
    y_label: str = ""


@dataclass
class PlotConfig:
    """The command's own keys; ``conf/plot.yaml`` says what each means."""

    figure: FigureSpec = field(default_factory=FigureSpec)
    output: str | None = None


def plot(arguments: Arguments) -> tuple[list[Path], list[str]]:
    """Draw a figure of the runs that are there.

    Args:
        arguments: The command line as :func:`parse` sorts it.

    Returns:
        The files, and what a reader needs to judge the figure, missing seeds among it.

    Raises:
        ConfigError: If an override is wrong, nothing is there to draw, or matplotlib is missing.
    """
    with composing(plot_schema=PlotConfig):
        config = typed(composed("plot", arguments.figure), PlotConfig)
    figure = config.figure
    restrict, draw = KINDS[figure.kind]
    if not any(override.startswith("table=") for override in arguments.table):
        overrides = [f"table={figure.table}", *arguments.table]
        arguments = dataclasses.replace(arguments, table=overrides)
    reproduction = Reproduction(arguments)
    table = reproduction.table(restrict(figure, reproduction.spec))
    if not any(cell.values for row in table.rows for cell in row.cells.values()):
        name = reproduction.spec.name
        raise ConfigError(
            f"Figure {figure.name!r} needs runs of table {name!r}, got none; train "
            f"them with rotograd reproduce table={name} and the same overrides."
        )
    folder = reproduction.folder if config.output is None else Path(config.output).expanduser()
    return _save(figure, table, draw, folder), table.footnotes


def _one_column(figure: FigureSpec, spec: TableSpec) -> TableSpec:
    if len(figure.columns) != 1 or figure.columns[0] not in spec.columns:
        raise ConfigError(
            f"`figure.columns` must name one column of table {spec.name!r}, got "
            f"{figure.columns}; choose from {', '.join(spec.columns)}."
        )
    return dataclasses.replace(spec, columns={figure.columns[0]: spec.columns[figure.columns[0]]})


def _gain_per_task(figure: FigureSpec, spec: TableSpec) -> TableSpec:
    if spec.delta is None:
        raise ConfigError(
            f"Figure {figure.name!r} needs a table with gains, got {spec.name!r} without a `delta`."
        )
    tasks = figure.columns or spec.tasks
    for task in tasks:
        if task not in spec.tasks:
            raise ConfigError(
                f"`figure.columns` must name tasks of table {spec.name!r}, got {task!r}; "
                f"{suggest(task, spec.tasks)}"
            )
    columns = {task: ColumnSpec(delta_of=[task], label=task) for task in tasks}
    return dataclasses.replace(spec, columns=columns, paper=None)


def _draw_boxes(axes: Any, table: Table) -> None:
    (column,) = table.columns
    rows = [row for row in table.rows if row.cells[column.name].values]
    values = [list(row.cells[column.name].values.values()) for row in rows]
    axes.boxplot(values, tick_labels=[row.label for row in rows])
    for place, group in enumerate(values, start=1):
        axes.plot([place] * len(group), group, ".", color="black", alpha=0.4)


def _bar(cell: Cell) -> tuple[float, float, float]:
    """Return the centre and its distances to the extremes, beyond which rounding may put it."""
    assert cell.centre is not None
    low = max(0.0, cell.centre - min(cell.values.values()))
    high = max(0.0, max(cell.values.values()) - cell.centre)
    return cell.centre, low, high


def _draw_gains(axes: Any, table: Table) -> None:
    rows = [row for row in table.rows if any(cell.values for cell in row.cells.values())]
    width = 0.8 / len(rows)
    for index, row in enumerate(rows):
        shift = (index - (len(rows) - 1) / 2) * width
        cells = enumerate(row.cells[column.name] for column in table.columns)
        bars = [(place + shift, *_bar(cell)) for place, cell in cells if cell.values]
        places, heights, lows, highs = zip(*bars, strict=True)
        axes.bar(places, heights, width, yerr=(lows, highs), capsize=2, label=row.label)
    axes.set_xticks(range(len(table.columns)), [column.label for column in table.columns])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(fontsize="small", ncols=2)


Draw = Callable[[Any, Table], None]
"""Draws a table into axes."""
KINDS: Mapping[str, tuple[Callable[[FigureSpec, TableSpec], TableSpec], Draw]] = {
    "box": (_one_column, _draw_boxes),
    "gains": (_gain_per_task, _draw_gains),
}
"""By kind: what cuts the table to the columns that the figure draws, and what draws them."""


def _save(figure: FigureSpec, table: Table, draw: Draw, folder: Path) -> list[Path]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "Figures need matplotlib, which is not installed; pip install 'rotograd-cli[plot]'."
        ) from error
    canvas = Figure(figsize=(8, 4.5), layout="constrained")
    axes = canvas.subplots()
    draw(axes, table)
    seeds = max(row.num_seeds for row in table.rows)
    axes.set_title(f"{figure.title} ({seeds} seeds)" if figure.title else f"{seeds} seeds")
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    folder.mkdir(parents=True, exist_ok=True)
    files = {kind: folder / f"{figure.name}.{kind}" for kind in ("png", "pdf")}
    for kind, file in files.items():
        replace_file(file, functools.partial(canvas.savefig, format=kind, dpi=150))
    return list(files.values())
