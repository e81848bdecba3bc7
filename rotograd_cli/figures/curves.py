"""Learning curves: a panel per key of the records, a line per row of runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rotograd_cli.figures import panels
from rotograd_cli.figures.base import LinesFigure
from rotograd_cli.figures.canvas import Drawing, Value
from rotograd_cli.figures.keys import default_keys, matching_keys
from rotograd_cli.figures.rows import Rows, read_rows
from rotograd_cli.figures.series import AXIS_LABELS, Series, series_of
from rotograd_cli.tables.colours import styles
from rotograd_cli.tables.runs import Run

if TYPE_CHECKING:
    from rotograd_cli.figures.canvas import Canvas

Lines = dict[str, dict[str, Series]]
"""By key, then by row."""


class Curves(LinesFigure):
    """What runs recorded over training, as small multiples with axes of their own.

    Runs that differ in their seed alone are one line, their mean, in a band.

    Args:
        name: Name of the files that are written.
        y: Keys of ``metrics.jsonl``, or patterns with ``*`` and ``?``; None: the key by which
            epochs are selected, and each task's leading metric on the validation split.
        **options: As in :class:`LinesFigure`.
    """

    def __init__(self, *, name: str, y: str | Sequence[str] | None, **options: Any) -> None:
        super().__init__(name=name, **options)
        self.y = [y] if isinstance(y, str) else y

    def draw(self, runs: Sequence[Run]) -> Drawing:
        """Draw the curves."""
        rows = read_rows(runs)
        keys, notes = default_keys(rows) if self.y is None else (matching_keys(rows, self.y), [])
        lines: Lines = {
            key: {
                row.label: series_of(row, key, self.options)
                for row in rows.rows
                if row.with_key(key)
            }
            for key in keys
        }
        canvas = self._canvas(rows, lines)
        numbers: list[list[Value]] = [
            line
            for key, by_row in lines.items()
            for row, series in by_row.items()
            for line in panels.numbers(row, key, series, self.options.band)
        ]
        return Drawing(canvas, panels.COLUMNS, numbers, [*rows.notes, *notes])

    def _canvas(self, rows: Rows, lines: Lines) -> "Canvas":
        seeds = [len(series.values) for by_row in lines.values() for series in by_row.values()]
        canvas, grid = panels.new_panels(len(lines), AXIS_LABELS[self.options.x])
        splits = {key.partition("/")[0] for key in lines}
        style = styles([row.label for row in rows.rows])
        names = panels.named({row.label: row.num_seeds for row in rows.rows})
        for axes, (key, by_row) in zip(grid, lines.items(), strict=True):
            panels.name_panel(axes, key, rows, with_split=len(splits) > 1)
            for row, series in by_row.items():
                panels.draw_line(axes, series, self.options.band, style[row], names[row])
        (split,) = splits if len(splits) == 1 else ("",)
        what = f"{rows.data}, {panels.SPLITS[split]} split" if split in panels.SPLITS else rows.data
        panels.add_title(canvas, what, seeds, self.options)
        panels.add_legend(canvas, grid)
        return canvas
