"""Small multiples: panels in a grid, lines with bands, titles that say what is drawn."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rotograd_cli.figures.canvas import Value, fraction_axis, new_canvas
from rotograd_cli.figures.rows import Rows
from rotograd_cli.figures.series import BAND_LABELS, Band, LineOptions, Series
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.summary import MetricDisplay
from rotograd_cli.runs.terminal import label, metric_name
from rotograd_cli.tables.colours import LineStyle

if TYPE_CHECKING:
    from rotograd_cli.figures.canvas import Artist, Axes, Canvas, SubCanvas

COLUMNS = ("row", "key", "step", "x", "mean", "low", "high", "seeds")
"""Head of the numbers of a figure of lines."""
SPLITS = {"train": "training", "val": "validation", "test": "test"}
MAX_POINTS = 25
"""Points of a line up to which each has a marker."""
TITLE_CHARACTERS = 82


def new_panels(count: int, x_label: str, most_columns: int = 3) -> tuple["Canvas", list["Axes"]]:
    """Return a canvas with panels in a grid; the lowest of each column name the x axis.

    Args:
        count: Number of panels.
        x_label: Label of the x axis.
        most_columns: Panels beside each other.
    """
    columns = min(count, most_columns) if count != 4 else min(2, most_columns)
    lines = math.ceil(count / columns)
    canvas = new_canvas(1.3 + (2.3 if lines > 1 else 3.2) * lines)
    grid = canvas.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    panels = list(grid[:count])
    for axes in panels[-columns:]:
        axes.set_xlabel(x_label)
    return canvas, panels


def draw_line(
    axes: "Axes", series: Series, band: Band, style: LineStyle, name: str, **changes: object
) -> None:
    """Draw the mean of a series and its band.

    Args:
        axes: Panel.
        series: Values over training.
        band: Which band.
        style: Colour and dashes.
        name: Name in the legend.
        **changes: Properties of the line that differ.
    """
    marker = "o" if len(series.x) <= MAX_POINTS else ""
    properties = {"linewidth": 1.5, "marker": marker, "markersize": 3.5, **style._asdict()}
    axes.plot(series.x, series.mean, label=name, **{**properties, **changes})
    low, high = series.edges(band)
    if (low < high).any():
        axes.fill_between(series.x, low, high, color=style.color, alpha=0.18, linewidth=0)


def numbers(row: str, key: str, series: Series, band: Band) -> list[list[Value]]:
    """Return the numbers of a line as ``COLUMNS`` has them."""
    low, high = series.edges(band)
    columns = (series.steps.astype(int), series.x, series.mean, low, high)
    return [
        [row, key, *(value.item() for value in values), len(series.values)]
        for values in zip(*columns, strict=True)
    ]


def name_panel(axes: "Axes", key: str, rows: Rows, with_split: bool) -> None:
    """Write what a panel shows above it, with the unit and the direction of better."""
    split, _, rest = key.partition("/")
    spec = spec_of(rows, rest)
    text = label(metric_name(rest), spec) if rest else key
    axes.set_title(f"{SPLITS.get(split, split)} {text}" if with_split else text)
    if spec.percent:
        fraction_axis(axes)


def spec_of(rows: Rows, key: str) -> MetricDisplay:
    """Return how a metric is shown, by its key without the split."""
    for history in rows.histories:
        summary = history.run.summary
        specs = {**summary.metric_specs, **summary.statistic_specs}
        if key in specs:
            return specs[key]
    is_loss = MetricKey.parse(key).name.endswith("loss")
    return MetricDisplay(better="lower" if is_loss else None, percent=False)


def add_title(canvas: "Canvas", what: str, seeds: Sequence[int], options: LineOptions) -> None:
    """Write above all panels what is drawn, of how many seeds, and what lines and bands are.

    Args:
        canvas: Canvas.
        what: Subject, data set and split.
        seeds: Number of seeds of every line.
        options: How the lines are drawn.
    """
    subject = f"{what} · {count_of(seeds)}"
    details = ["line: mean", BAND_LABELS[options.band]] if max(seeds) > 1 else []
    if options.x == "time" and max(seeds) > 1:
        details.append("time: mean")
    if options.smooth is not None:
        details.append(f"smoothed, weight of the past {options.smooth:g}")
    detail = " · ".join(filter(None, details))
    fits = len(subject) + len(detail) <= TITLE_CHARACTERS
    canvas.suptitle((" · " if fits else "\n").join(filter(None, [subject, detail])))


def count_of(seeds: Sequence[int]) -> str:
    """Return the number of seeds in words: ``1 seed``, ``2 to 5 seeds``."""
    least, most = min(seeds), max(seeds)
    if least < most:
        return f"{least} to {most} seeds"
    return f"{most} seed{'s' if most > 1 else ''}"


def add_legend(canvas: "Canvas | SubCanvas", panels: Sequence["Axes"]) -> None:
    """Name the lines of all panels below them, each once; nothing for a single line."""
    handles: dict[str, Artist] = {}
    for axes in panels:
        lines, names = axes.get_legend_handles_labels()
        handles |= dict(zip(names, lines, strict=True))
    longest = max(map(len, handles), default=0)
    columns = max(1, min(len(handles), TITLE_CHARACTERS // (longest + 6)))
    place: Any = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    canvas.legend(list(handles.values()), list(handles), **place)


def named(names: Mapping[str, int]) -> dict[str, str]:
    """Return names with their number of seeds where these differ."""
    if len(set(names.values())) == 1:
        return {name: name for name in names}
    return {name: f"{name} ({count_of([count])})" for name, count in names.items()}
