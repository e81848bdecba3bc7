"""What the grid of a table found: numbers against learning rates."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rotograd_cli.errors import ConfigError, listed, suggest
from rotograd_cli.figures.base import SearchFigure
from rotograd_cli.figures.canvas import Drawing, Value, log_axis, new_canvas
from rotograd_cli.figures.panels import add_legend
from rotograd_cli.tables.colours import LineStyle, styles
from rotograd_cli.tables.parts import Trial, Tried
from rotograd_cli.tables.spec import TableSpec

if TYPE_CHECKING:
    from rotograd_cli.figures.canvas import Axes

X_LABELS = {
    "model_optimizer.lr": "learning rate of the network",
    "method_optimizer.lr": "learning rate of the method's own parameters",
}
LOG_FROM = 10.0
"""Ratio of the largest to the smallest number from which the vertical axis is logarithmic."""
Height = Callable[[Trial], float]
"""The number of a setting that a panel shows; NaN for none."""


class Sensitivity(SearchFigure):
    """A line per row in a panel per key of the grid, and a row of panels per number.

    Where a value was tried together with several values of other keys, the point is the best of
    these on validation, in panels of test results too. The chosen setting has a ring. ``columns``
    are columns of the table, whose test results stand below the validation value.
    """

    def columns_of(self, spec: TableSpec) -> TableSpec:
        """Return the table with the columns that are shown."""
        by_seed = [name for name, each in spec.columns.items() if each.mean_rank_of is None]
        for name in self.columns:
            if name not in by_seed:
                raise ConfigError(
                    f"`figure.columns` must name columns of table {spec.name!r} with a value of "
                    f"every seed, got {name!r}; {suggest(name, by_seed)}"
                )
        columns = {name: spec.columns[name] for name in self.columns}
        return dataclasses.replace(spec, columns=columns, paper=None, compare_with=None)

    def draw(self, tried: Tried) -> Drawing:
        """Draw the panels.

        Raises:
            ConfigError: If no row tried several numbers of a key.
        """
        keys = varied_keys(tried.trials)
        if not keys:
            raise ConfigError(
                f"Figure {self.name!r} needs a row that was trained with several numbers of a key "
                f"of the grid, got none in {tried.title!r}; rotograd reproduce trains the others."
            )
        heights = _heights(tried)
        canvas = new_canvas(1.5 + 2.6 * len(heights))
        grid = canvas.subplots(len(heights), len(keys), squeeze=False, sharey="row", sharex="col")
        style = styles(list(dict.fromkeys(trial.label for trial in tried.trials)))
        for (name, height), panels in zip(heights.items(), grid, strict=True):
            panels[0].set_ylabel(name)
            for key, axes in zip(keys, panels, strict=True):
                _draw_panel(axes, tried, key, height, style)
            _scale(panels[0], [height(trial) for trial in tried.trials])
        for key, axes in zip(keys, grid[-1], strict=True):
            axes.set_xlabel(X_LABELS.get(key, key))
        canvas.suptitle(f"{self.title}: {tried.title}\n{_seeds(tried)} · ring: chosen")
        add_legend(canvas, list(grid.ravel()))
        heads = ["row", "key", "value", *heights, "chosen"]
        return Drawing(canvas, heads, _numbers(tried, keys, heights), _notes(tried))


def varied_keys(trials: Sequence[Trial]) -> list[str]:
    """Return the keys of which some row tried several numbers above 0, in order."""
    values: dict[str, dict[str, set[float]]] = {}
    for trial in trials:
        for key, value in trial.point.items():
            if type(value) in (int, float) and value > 0:
                values.setdefault(key, {}).setdefault(trial.label, set()).add(value)
    return [k for k, of_rows in values.items() if any(len(row) > 1 for row in of_rows.values())]


def lines_of(tried: Tried, key: str) -> dict[str, dict[float, Trial]]:
    """Return by row the best setting on validation for every value of a key, in ascending order.

    Settings without a value are left out, and rows that tried a single value of the key.
    """
    sign = 1 if tried.better == "lower" else -1
    lines: dict[str, dict[float, Trial]] = {}
    finite = [t for t in tried.trials if key in t.point and math.isfinite(t.validation)]
    for trial in sorted(finite, key=lambda trial: sign * trial.validation):
        lines.setdefault(trial.label, {}).setdefault(trial.point[key], trial)
    order = dict.fromkeys(trial.label for trial in tried.trials)
    return {
        label: dict(sorted(lines[label].items()))
        for label in order
        if len(lines.get(label, {})) > 1
    }


def _heights(tried: Tried) -> dict[str, Height]:
    """Return what the rows of panels show, by the label of their vertical axis."""
    heights: dict[str, Height] = {tried.metric: lambda trial: trial.validation}
    for column in tried.columns:
        unit = " %" if column.unit == "%" else ""
        heights[f"test {column.label}{unit}"] = _height_in(column.name)
    return heights


def _height_in(column: str) -> Height:
    def height(trial: Trial) -> float:
        centre = trial.cells[column].centre
        return math.nan if centre is None else centre

    return height


def _draw_panel(
    axes: "Axes", tried: Tried, key: str, height: Height, style: Mapping[str, LineStyle]
) -> None:
    """Draw the lines of the rows, and a ring at each one's choice."""
    lines = lines_of(tried, key)
    for label, line in lines.items():
        look = style[label]._asdict()
        numbers = [height(trial) for trial in line.values()]
        axes.plot(list(line), numbers, marker="o", markersize=3.5, label=label, **look)
    ring: Any = {"markerfacecolor": "none", "markersize": 10, "markeredgewidth": 1.5}
    for trial in tried.trials:
        if trial.is_chosen and trial.label in lines:
            color = style[trial.label].color
            axes.plot(trial.point[key], height(trial), "o", markeredgecolor=color, **ring)
    log_axis(axes, "x")


def _scale(axes: "Axes", heights: Sequence[float]) -> None:
    """Make the vertical axis logarithmic where its numbers are far apart and above 0."""
    finite = list(filter(math.isfinite, heights))
    if finite and min(finite) > 0 and max(finite) > LOG_FROM * min(finite):
        log_axis(axes)


def _numbers(tried: Tried, keys: Sequence[str], heights: Mapping[str, Height]) -> list[list[Value]]:
    return [
        [label, key, value, *(height(trial) for height in heights.values()), int(trial.is_chosen)]
        for key in keys
        for label, line in lines_of(tried, key).items()
        for value, trial in line.items()
    ]


def _seeds(tried: Tried) -> str:
    seeds = ", ".join(map(str, tried.seeds))
    return f"seed {seeds}" if len(tried.seeds) == 1 else f"mean over seeds {seeds}"


def _notes(tried: Tried) -> list[str]:
    gaps = [
        f"{trial.label} {', '.join(map(str, trial.point.values()))}"
        for trial in tried.trials
        if not math.isfinite(trial.validation)
    ]
    why = "a run failed, is not there or has no finite value"
    return [*tried.notes, *([f"Not drawn, as {why}: {listed(gaps)}."] if gaps else [])]
