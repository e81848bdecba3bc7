"""One column of a table: a box per row over the seeds."""

import dataclasses

from rotograd_cli.errors import ConfigError
from rotograd_cli.figures.base import TableFigure
from rotograd_cli.figures.canvas import Drawing, cell_rows, new_canvas, seeds_title
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.spec import TableSpec


class Boxes(TableFigure):
    """A box per row of a table: median, quartiles and whiskers over the seeds, and a dot per seed.

    ``columns`` is one column of the table.
    """

    def columns_of(self, spec: TableSpec) -> TableSpec:
        """Return the table with this column alone."""
        by_seed = [name for name, each in spec.columns.items() if each.mean_rank_of is None]
        if len(self.columns) != 1 or self.columns[0] not in by_seed:
            raise ConfigError(
                f"`figure.columns` must name one column of table {spec.name!r} with a value of "
                f"every seed, got {list(self.columns)}; choose from {', '.join(by_seed)}."
            )
        (name,) = self.columns
        return dataclasses.replace(spec, columns={name: spec.columns[name]})

    def draw(self, table: Table) -> Drawing:
        """Draw a table of one column."""
        if len(table.columns) != 1:
            heads = ", ".join(column.label for column in table.columns) or "none"
            raise ConfigError(
                f"Figure {self.name!r} draws numbers of one protocol, got {heads}; narrow `runs`."
            )
        canvas = new_canvas(4.5)
        axes = canvas.subplots()
        (column,) = table.columns
        rows = [row for row in table.rows if row.cells[column.name].values]
        values = [list(row.cells[column.name].values.values()) for row in rows]
        axes.boxplot(values, tick_labels=[row.label for row in rows])
        for place, group in enumerate(values, start=1):
            axes.plot([place] * len(group), group, ".", color="black", alpha=0.4)
        axes.set(title=seeds_title(self.title, table), xlabel=self.x_label, ylabel=self.y_label)
        return Drawing(canvas, *cell_rows(table), table.main_footnotes)
