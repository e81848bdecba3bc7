"""A quantity that every task has over training: a panel per row of runs, a line per task."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rotograd_cli.figures import panels
from rotograd_cli.figures.base import LinesFigure
from rotograd_cli.figures.canvas import Drawing, Value, log_axis
from rotograd_cli.figures.missing import rows_with
from rotograd_cli.figures.rows import Row, read_rows
from rotograd_cli.figures.series import AXIS_LABELS, Series, series_of
from rotograd_cli.tables.colours import COLOURS, LineStyle
from rotograd_cli.tables.runs import Run

if TYPE_CHECKING:
    from rotograd_cli.figures.canvas import Axes, Canvas

EXTREMES = 3
"""Tasks with the largest and with the smallest values that are named where all are too many."""
LIGHT = LineStyle("#CCCCCC", "-")


class PerTask(LinesFigure):
    """One recorded quantity of every task, ``train/<task>/<quantity>``.

    Of more tasks than there are colours, those with the three largest and three smallest values at
    the end are named in each panel, and the others are grey.

    Args:
        name: Name of the files that are written.
        quantity: Last part of the key.
        title: What the figure shows, in words.
        y_label: Label of the quantity, with its unit.
        log: Whether the vertical axis is logarithmic.
        **options: As in :class:`LinesFigure`.
    """

    def __init__(
        self, *, name: str, quantity: str, title: str, y_label: str, log: bool, **options: Any
    ) -> None:
        super().__init__(name=name, **options)
        self.quantity = quantity
        self.title = title
        self.y_label = y_label
        self.log = log

    def draw(self, runs: Sequence[Run]) -> Drawing:
        """Draw the quantity."""
        rows = read_rows(runs)
        what = self.y_label.partition(",")[0]
        drawn, notes = rows_with(rows, lambda row: bool(self._keys(row)), self.name, what)
        lines = {
            row.label: {
                task: series_of(row, key, self.options) for task, key in self._keys(row).items()
            }
            for row in drawn
        }
        numbers: list[list[Value]] = [
            line
            for row, by_task in lines.items()
            for task, series in by_task.items()
            for line in panels.numbers(row, self._key(task), series, self.options.band)
        ]
        canvas = self._canvas(rows.data, rows.tasks, lines)
        return Drawing(canvas, panels.COLUMNS, numbers, [*rows.notes, *notes])

    def _key(self, task: str) -> str:
        return f"train/{task}/{self.quantity}"

    def _keys(self, row: Row) -> dict[str, str]:
        """Return the keys that a row has, by task."""
        tasks = dict.fromkeys(t for history in row.histories for t in history.run.summary.tasks)
        return {task: self._key(task) for task in tasks if row.with_key(self._key(task))}

    def _canvas(
        self, data: str, tasks: Sequence[str], lines: dict[str, dict[str, Series]]
    ) -> "Canvas":
        seeds = [len(series.values) for by_task in lines.values() for series in by_task.values()]
        are_many = len(tasks) > len(COLOURS)
        label = AXIS_LABELS[self.options.x]
        canvas, grid = panels.new_panels(len(lines), label, 1 if are_many else 3)
        colours = {task: LineStyle(c, "-") for task, c in zip(tasks, COLOURS, strict=False)}
        for axes, (row, by_task) in zip(grid, lines.items(), strict=True):
            axes.set_title(row)
            styles = _extremes(by_task) if are_many else colours
            for task, series in by_task.items():
                band = self.options.band if task in styles else "none"
                panels.draw_line(axes, series, band, styles.get(task, LIGHT), task)
            if are_many:
                _name_extremes(axes, styles)
            if self.log:
                log_axis(axes)
        canvas.supylabel(self.y_label)
        panels.add_title(canvas, f"{self.title} on {data}", seeds, self.options)
        if not are_many:
            panels.add_legend(canvas, grid)
        return canvas


def _extremes(by_task: dict[str, Series]) -> dict[str, LineStyle]:
    """Return styles of the tasks with the largest and the smallest values at the end."""
    ordered = sorted(by_task, key=lambda task: -float(by_task[task].mean[-1]))
    chosen = dict.fromkeys([*ordered[:EXTREMES], *ordered[-EXTREMES:]])
    return {task: LineStyle(colour, "-") for task, colour in zip(chosen, COLOURS, strict=False)}


def _name_extremes(axes: "Axes", styles: dict[str, LineStyle]) -> None:
    """Name the coloured lines beside the panel, and put them above the grey ones."""
    lines = {str(line.get_label()): line for line in axes.lines}
    for task in styles:
        lines[task].set_zorder(3)
    others = len(lines) - len(styles)
    handles = [lines[task] for task in styles]
    names = list(styles)
    if others:
        handles.append(next(line for task, line in lines.items() if task not in styles))
        names.append(f"{others} others")
    axes.legend(handles, names, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
