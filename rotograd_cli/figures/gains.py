"""Gains of every task against single-task networks."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rotograd_cli.config.schema import suggest
from rotograd_cli.errors import ConfigError
from rotograd_cli.figures.base import TableFigure
from rotograd_cli.figures.canvas import Drawing, cell_rows, new_canvas, seeds_title
from rotograd_cli.tables.parts import Cell, Table
from rotograd_cli.tables.spec import ColumnSpec, TableSpec

if TYPE_CHECKING:
    from rotograd_cli.figures.canvas import Axes


class Gains(TableFigure):
    """A group of bars per task, a bar per row of the table, whiskers over all seeds.

    Args:
        name: Name of the files that are written.
        table: Table that is drawn by default.
        columns: Tasks; empty takes all of the table's.
        title: Title, to which the number of seeds is added.
        x_label: Label of the tasks.
        y_label: Label of the gains.
    """

    def __init__(
        self,
        *,
        name: str,
        table: str,
        columns: Sequence[str],
        title: str,
        x_label: str,
        y_label: str,
    ) -> None:
        super().__init__(name=name, table=table)
        self.columns = columns
        self.title = title
        self.labels = {"xlabel": x_label, "ylabel": y_label}

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
        canvas = new_canvas(4.5)
        axes = canvas.subplots()
        draw_bars(axes, table)
        axes.set(title=seeds_title(self.title, table), **self.labels)
        return Drawing(canvas, *cell_rows(table), table.footnotes)


def draw_bars(axes: "Axes", table: Table) -> None:
    """Draw a bar per row in a group per column, and a line at 0."""
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


def _bar(cell: Cell) -> tuple[float, float, float]:
    """Return the centre and its distances to the extremes, beyond which rounding may put it."""
    assert cell.centre is not None
    low = max(0.0, cell.centre - min(cell.values.values()))
    high = max(0.0, max(cell.values.values()) - cell.centre)
    return cell.centre, low, high
