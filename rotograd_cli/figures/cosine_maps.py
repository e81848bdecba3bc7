"""Heat maps of the cosines between all pairs of tasks, at several stretches of training."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from rotograd_cli.figures.canvas import Value
from rotograd_cli.figures.rows import Array, Row
from rotograd_cli.figures.series import series_of

if TYPE_CHECKING:
    from rotograd_cli.figures.canvas import Axes, AxesImage, SubCanvas

STAGES = {"before": "_before", "after": ""}
"""Ends of the keys by stage: gradients at the heads' inputs r_k, at the shared features z."""
MOST_NUMBERED = 5
"""Tasks up to which the maps show their numbers."""
MOST_NAMED = 12
"""Tasks up to which the maps name all of them; of more, evenly spread ones."""
SIDE = 1.75
"""Height of a map in inches."""
LIMITS = (0.1, 0.2, 0.5, 1.0)
"""Ends of the scale of colours."""
NO_PAIR = "#DDDDDD"
COLOUR_MAP = "RdBu"
"""Red: conflict, blue: agreement, white: orthogonal."""


@dataclass(frozen=True)
class CosineMaps:
    """Cosines of one row of runs at one stage."""

    row: str
    stage: str
    tasks: Sequence[str]
    stretches: Sequence[tuple[int, int]]
    """First and last step of each."""
    cosines: Array
    """Mean over the records of each stretch and over the seeds, ``[stretches, K, K]``; NaN on the
    diagonal and for pairs without a record."""

    def numbers(self) -> list[list[Value]]:
        """Return one line per pair and stretch."""
        pairs = list(combinations(range(len(self.tasks)), 2))
        return [
            [self.row, self.stage, self.tasks[a], self.tasks[b], first, last, cosines[a, b].item()]
            for (first, last), cosines in zip(self.stretches, self.cosines, strict=True)
            for a, b in pairs
            if np.isfinite(cosines[a, b])
        ]


def cosine_maps(row: Row, stage: str, moments: int) -> CosineMaps | None:
    """Return the cosines of a row, None where it recorded none at that stage.

    Args:
        row: Row.
        stage: Key of :data:`STAGES`.
        moments: Number of stretches of training with as many records each.
    """
    tasks = list(dict.fromkeys(t for history in row.histories for t in history.run.summary.tasks))
    keys = {
        (a, b): f"train/{tasks[a]}/{tasks[b]}/cosine{STAGES[stage]}"
        for a, b in combinations(range(len(tasks)), 2)
    }
    series = {pair: series_of(row, key) for pair, key in keys.items() if row.with_key(key)}
    if not series:
        return None
    steps = np.unique(np.concatenate([each.steps for each in series.values()]))
    parts = [part for part in np.array_split(steps, moments) if len(part)]
    cosines = np.full((len(parts), len(tasks), len(tasks)), np.nan)
    for (a, b), each in series.items():
        for index, part in enumerate(parts):
            values = each.mean[np.isin(each.steps, part)]
            cosines[index, [a, b], [b, a]] = values.mean() if len(values) else np.nan
    stretches = [(int(part[0]), int(part[-1])) for part in parts]
    return CosineMaps(row.label, stage, tasks, stretches, cosines)


def draw_maps(canvas: "SubCanvas", several: Sequence[CosineMaps]) -> None:
    """Draw a line of maps per row and stage, a column per stretch, and the scale of the colours."""
    columns = max(len(maps.stretches) for maps in several)
    grid = canvas.subplots(len(several), columns, squeeze=False)
    rotated = {maps.row for maps in several if maps.stage == "before"}
    limit = _limit(several)
    for line, maps in zip(grid, several, strict=True):
        for axes in line[len(maps.stretches) :]:
            axes.set_axis_off()
        for axes, stretch, cosines in zip(line, maps.stretches, maps.cosines, strict=False):
            image = _draw_map(axes, cosines, limit)
            _name_tasks(axes, maps.tasks, is_first=axes is line[0], is_last=maps is several[-1])
            axes.set_title(_name_stretch(*stretch), fontsize="small")
        stage = f"{maps.stage} rotation" if maps.row in rotated else ""
        line[0].set_ylabel("\n".join([*textwrap.wrap(maps.row, 18), stage]).strip())
    scale = canvas.colorbar(image, ax=grid, shrink=min(1.0, 1.6 / len(several)), label="cosine")
    scale.set_ticks([-limit, -limit / 2, 0, limit / 2, limit])


def _name_stretch(first: int, last: int) -> str:
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _limit(several: Sequence[CosineMaps]) -> float:
    """Return where the scale of all maps ends: the least of a few that holds every cosine."""
    largest = max(float(np.nanmax(np.abs(maps.cosines))) for maps in several)
    return next(limit for limit in LIMITS if largest <= limit or limit == LIMITS[-1])


def _draw_map(axes: "Axes", cosines: Array, limit: float) -> "AxesImage":
    image = axes.imshow(cosines, cmap=COLOUR_MAP, vmin=-limit, vmax=limit)
    axes.set_facecolor(NO_PAIR)
    axes.spines[:].set_visible(False)
    if len(cosines) <= MOST_NUMBERED:
        for (a, b), value in np.ndenumerate(cosines):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.6 * limit else "black"
                text = f"{round(value, 2) + 0.0:.2f}".replace("0.", ".")  # no -.00
                axes.text(b, a, text, ha="center", va="center", color=colour, fontsize=7.5)
    return image


def _name_tasks(axes: "Axes", tasks: Sequence[str], *, is_first: bool, is_last: bool) -> None:
    """Name the tasks on the left of the first map of a line and below the maps of the last line."""
    places = range(0, len(tasks), math.ceil(len(tasks) / MOST_NAMED))
    names = [tasks[place] for place in places]
    axes.set_yticks(places, names if is_first else [""] * len(names))
    axes.set_xticks(places, names if is_last else [""] * len(names), rotation=90)
    axes.tick_params(length=0, labelsize="small")
