"""Gains of every task against single-task networks."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rotograd_cli.errors import ConfigError, suggest
from rotograd_cli.figures.base import TableFigure
from rotograd_cli.figures.canvas import Drawing, cell_rows, seeds_title
from rotograd_cli.figures.panels import add_legend, new_panels
from rotograd_cli.tables.colours import DASHES, LineStyle, styles
from rotograd_cli.tables.parts import Cell, Column, Row, Table
from rotograd_cli.tables.spec import ColumnSpec, TableSpec

if TYPE_CHECKING:
    from rotograd_cli.figures.canvas import Axes


WHISKERS = "#666666"  # no bar has this colour
HATCHES = dict(zip(DASHES, ("", "//", "..", "xx"), strict=True))
"""What tells bars of one colour apart, as dashes do lines."""


class Gains(TableFigure):
    """A panel per task with an axis of its own, a bar per row, whiskers over all seeds.

    ``columns`` are tasks; none takes all of the table's.
    """

    def columns_of(self, spec: TableSpec) -> TableSpec:
        """Return the table with the gain of each task in a column of its own."""
        if spec.delta is None:
            raise ConfigError(
                f"Figure {self.name!r} needs a table with gains, got {spec.name!r} without a "
                "`delta`; runs of single tasks make one: rotograd train -m 'tasks=[A],[B]'."
            )
        tasks = self.columns or spec.tasks
        for task in tasks:
            if task not in spec.tasks:
                raise ConfigError(
                    f"`figure.columns` must name tasks of table {spec.name!r}, got {task!r}; "
                    f"{suggest(task, spec.tasks)}"
                )
        columns = {task: ColumnSpec(delta_of=[task], label=task) for task in tasks}
        return dataclasses.replace(spec, columns=columns, paper=None)

    def draw(self, table: Table) -> Drawing:
        """Draw the gains of a table with a column per task."""
        canvas, grid = new_panels(len(table.columns), self.x_label)
        rows = [row for row in table.rows if any(cell.values for cell in row.cells.values())]
        style = styles([row.label for row in rows])
        for axes, column in zip(grid, table.columns, strict=True):
            draw_bars(axes, rows, column, style)
            reasons = _reasons(table.rows, column)
            if reasons:
                axes.set_yticks([])
                axes.text(0.5, 0.5, reasons, ha="center", va="center", transform=axes.transAxes)
        what = seeds_title(self.title, table)
        canvas.suptitle(f"{what}; whiskers: worst and best seed\n{table.title}")
        canvas.supylabel(self.y_label)
        add_legend(canvas, grid)
        return Drawing(canvas, *cell_rows(table), table.main_footnotes)


def draw_bars(
    axes: "Axes", rows: Sequence[Row], column: Column, style: Mapping[str, LineStyle]
) -> None:
    """Draw a bar per row that has a value in a column, and a line at 0."""
    for place, row in enumerate(rows):
        cell = row.cells[column.name]
        if cell.values:
            height, low, high = _bar(cell)
            look = style[row.label]
            axes.bar(
                place,
                height,
                yerr=[[low], [high]],
                capsize=3,
                ecolor=WHISKERS,
                color=look.color,
                edgecolor="white",
                hatch=HATCHES[look.linestyle],
                label=row.label,
            )
    axes.set_title(column.label)
    axes.set_xticks([])
    axes.set_xlim(-0.7, len(rows) - 0.3)
    axes.axhline(0, color="black", linewidth=0.8)


def _reasons(rows: Sequence[Row], column: Column) -> str:
    """Return why a column has no value; nothing where it has one."""
    cells = [row.cells[column.name] for row in rows]
    if any(cell.values for cell in cells):
        return ""
    reasons = {each.reason.replace(" where", ":") for cell in cells for each in cell.omitted}
    return "\n".join(textwrap.fill(reason, 24) for reason in sorted(reasons)) or "No result"


def _bar(cell: Cell) -> tuple[float, float, float]:
    """Return the centre and its distances to the extremes, beyond which rounding may put it."""
    assert cell.centre is not None
    low = max(0.0, cell.centre - min(cell.values.values()))
    high = max(0.0, max(cell.values.values()) - cell.centre)
    return cell.centre, low, high
