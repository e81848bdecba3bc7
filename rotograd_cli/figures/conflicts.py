"""Conflicts of the task gradients: cosines between all pairs, before and after the rotations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from rotograd_cli.bounds import checked
from rotograd_cli.figures import panels
from rotograd_cli.figures.base import LinesFigure
from rotograd_cli.figures.canvas import Drawing, new_canvas
from rotograd_cli.figures.cosine_maps import SIDE, STAGES, CosineMaps, cosine_maps, draw_maps
from rotograd_cli.figures.missing import rows_with
from rotograd_cli.figures.series import AXIS_LABELS, Series, series_of
from rotograd_cli.tables.colours import styles
from rotograd_cli.tables.rows import Row, read_rows
from rotograd_cli.tables.runs import Run

if TYPE_CHECKING:
    from rotograd_cli.figures.canvas import Axes, Canvas

MEASURES = {"mean_cosine": "mean cosine of all pairs", "rate": "share of pairs in conflict"}
"""What the lines show, by the last part of the key."""
DASHES = {"before": "--", "after": "-"}
MOST_ROWS = 6
"""Rows of runs that get maps."""
LINES_HEIGHT = 3.6
COLUMNS = ("row", "stage", "task", "other task", "first step", "last step", "mean")

Lines = dict[tuple[str, str, str], Series]
"""By measure, row and stage."""


class Conflicts(LinesFigure):
    """Cosines between the task gradients: maps of all pairs, their mean and the conflict rate.

    ``after``: between the gradients at the shared features z, which the method combines.
    ``before``: between those at the heads' inputs r_k = R_k z. Methods without rotations have the
    former alone.

    Args:
        name: Name of the files that are written.
        moments: Maps per row of runs; each is the mean over as many records.
        **options: As in :class:`LinesFigure`.
    """

    @checked
    def __init__(self, *, name: str, moments: Annotated[int, Ge(1), Le(6)], **options: Any) -> None:
        super().__init__(name=name, **options)
        self.moments = moments

    def draw(self, runs: Sequence[Run]) -> Drawing:
        """Draw maps above, lines below."""
        rows = read_rows(runs)
        what = "cosines of two tasks or more"
        drawn, notes = rows_with(
            rows, lambda row: bool(row.with_key(_key("rate"))), self.name, what
        )
        lines = self._lines(drawn)
        maps, more = self._maps(drawn)
        canvas = self._canvas(rows.data, maps, lines)
        numbers = [line for each in maps for line in each.numbers()]
        for (measure, row, stage), series in lines.items():
            numbers += [
                [row, stage, MEASURES[measure], "", int(step), int(step), float(mean)]
                for step, mean in zip(series.steps, series.mean, strict=True)
            ]
        return Drawing(canvas, COLUMNS, numbers, [*rows.notes, *notes, *more])

    def _lines(self, rows: Sequence[Row]) -> Lines:
        return {
            (measure, row.label, stage): series_of(row, key, self.options)
            for measure in MEASURES
            for row in rows
            for stage, key in ((stage, _key(measure, stage)) for stage in STAGES)
            if row.with_key(key)
        }

    def _maps(self, rows: Sequence[Row]) -> tuple[list[CosineMaps], list[str]]:
        """Return the maps, and which rows have none."""
        several = []
        notes = []
        for row in rows[:MOST_ROWS]:
            maps = [cosine_maps(row, stage, self.moments) for stage in STAGES]
            there = [each for each in maps if each is not None]
            several += there
            if not there:
                notes.append(
                    f"{row.label}: no maps, the cosine of each pair is recorded for up to 10 tasks "
                    "or with diagnostics=full."
                )
        if len(rows) > MOST_ROWS:
            notes.append(f"Maps of the first {MOST_ROWS} of {len(rows)} rows; narrow `runs`.")
        return several, notes

    def _canvas(self, data: str, maps: Sequence[CosineMaps], lines: Lines) -> "Canvas":
        seeds = [len(series.values) for series in lines.values()]
        heights = [SIDE * len(maps) + 0.9, LINES_HEIGHT] if maps else [LINES_HEIGHT]
        canvas = new_canvas(sum(heights) + 0.5)
        *above, below = canvas.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[
            :, 0
        ]
        for sub in above:
            draw_maps(sub, maps)
        axes = below.subplots(1, len(MEASURES))
        self._draw_lines(axes, lines)
        for each in axes:
            each.set_xlabel(AXIS_LABELS[self.options.x])
        panels.add_legend(below, axes)
        what = f"Cosines between task gradients on {data}, training"
        panels.add_title(canvas, what, seeds, self.options)
        return canvas

    def _draw_lines(self, grid: Sequence["Axes"], lines: Lines) -> None:
        style = styles(list(dict.fromkeys(row for _, row, _ in lines)))
        rotated = {row for _, row, stage in lines if stage == "before"}
        for (measure, row, stage), series in lines.items():
            axes = grid[list(MEASURES).index(measure)]
            name = f"{row}, {stage}" if row in rotated else row
            dashed = style[row]._replace(linestyle=DASHES[stage])
            panels.draw_line(axes, series, self.options.band, dashed, name)
        for axes, title in zip(grid, MEASURES.values(), strict=True):
            axes.set_title(title)
            axes.axhline(0, color="black", linewidth=0.6)
        grid[list(MEASURES).index("rate")].set_ylim(-0.03, 1.03)


def _key(measure: str, stage: str = "after") -> str:
    return f"train/conflict/{measure}{STAGES[stage]}"
