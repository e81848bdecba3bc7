"""The canvas of every figure: its size, its type and the files it becomes. Imports matplotlib."""

import csv
import functools
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rotograd_cli.errors import ConfigError
from rotograd_cli.extras import installing
from rotograd_cli.files import replace_file, replace_text
from rotograd_cli.tables.parts import Table

if TYPE_CHECKING:
    from matplotlib.artist import Artist as Artist
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage as AxesImage

    Canvas = Figure
    SubCanvas = SubFigure

Value = str | int | float


@dataclass(frozen=True)
class Drawing:
    """A figure that was drawn."""

    canvas: "Canvas"
    columns: Sequence[str]
    """Head of the file of the numbers that are drawn."""
    rows: Sequence[Sequence[Value]]
    """The numbers, with what tells them apart, one line each."""
    notes: Sequence[str] = field(default_factory=list)
    """What a reader needs to judge the figure, one line each: what is left out, and why."""


WIDTH = 8.0
"""Inches; with the type below it can be read in a column of 600 pixels."""
DPI = 150
STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "figure.titlesize": 12,
    "figure.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # letters that can be searched and edited
}


@contextmanager
def styled() -> Iterator[None]:
    """Inside, figures are drawn and saved in the style of this package.

    Raises:
        ConfigError: If matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise ConfigError(
            f"Figures need matplotlib, which is not installed; run {installing('plot')}."
        ) from error
    with rc_context(STYLE):
        yield


def new_canvas(height: float, width: float = WIDTH) -> "Canvas":
    """Return an empty canvas whose parts are laid out so that nothing overlaps.

    Args:
        height: In inches.
        width: In inches.
    """
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(width, height), layout="constrained")


def save(drawing: Drawing, folder: Path, name: str) -> list[Path]:
    """Write a drawing as PNG and PDF, and its numbers as CSV.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {kind: folder / f"{name}.{kind}" for kind in ("png", "pdf", "csv")}
    for kind in ("png", "pdf"):
        write = functools.partial(drawing.canvas.savefig, format=kind, dpi=DPI)
        replace_file(files[kind], write)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([drawing.columns, *drawing.rows])
    replace_text(files["csv"], text.getvalue())
    return list(files.values())


def seeds_title(title: str, table: Table) -> str:
    """Return the title of a figure of a table, with its number of seeds."""
    num = max(row.num_seeds for row in table.rows)
    seeds = "1 seed" if num == 1 else f"{num} seeds"
    return f"{title} ({seeds})" if title else seeds


def cell_rows(table: Table) -> tuple[list[str], list[list[Value]]]:
    """Return the numbers of a table as a drawing has them: one line per row, column and seed."""
    rows: list[list[Value]] = [
        [row.label, column.label, seed, value]
        for row in table.rows
        for column in table.columns
        for seed, value in row.cells[column.name].values.items()
    ]
    return ["row", "column", "seed", "value"], rows


def fraction_axis(axes: "Axes") -> None:
    """Label the vertical axis, which holds fractions, in percent."""
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))


def log_axis(axes: "Axes", which: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic, labelled at 1, 2 and 5 of each decade.

    Horizontally, where labels stand beside each other, more than two decades are labelled at 1.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.yaxis if which == "y" else axes.xaxis
    low, high = axis.get_view_interval()
    is_crowded = which == "x" and high > 100 * low
    axis.set_major_locator(LogLocator(subs=(1,) if is_crowded else (1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
