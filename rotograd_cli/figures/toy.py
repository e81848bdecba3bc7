"""The paper's figure 1: both toy problems, seen by the backbone and seen by the heads."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from annotated_types import Gt

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.config.labels import method_label
from rotograd_cli.data.toy import LOSSES, OPTIMA, TASKS, Problem
from rotograd_cli.figures.base import ComputedFigure
from rotograd_cli.figures.canvas import Drawing, Value, new_canvas
from rotograd_cli.figures.toy_paths import Trajectory, configuration, trajectory

if TYPE_CHECKING:
    from rotograd_cli.figures.canvas import Axes

COLOURS = ("#0072b2", "#d55e00")
"""Blue and vermilion of Okabe and Ito's palette: left task, right task."""
LIGHT = ("#7fb8d8", "#eaae7f")
"""The same for paths, and for level sets (thinner)."""
SHARED = ("#8c8c8c", "#8c8c8c")
"""Of a path that both tasks share."""
HALF_WIDTHS: Mapping[Problem, float] = {"convex": 1.55, "nonconvex": 3.0}
"""Of the part of the plane that is drawn."""
GREYS = [f"{grey:.2f}" for grey in np.linspace(0.55, 0.99, 13)]
"""From low to high mean loss."""
GRID = 161
"""Points per axis at which a loss is computed for its level sets."""


@dataclass(frozen=True)
class Panel:
    """What a method does with a problem, from every start."""

    problem: Problem
    method: str
    label: str
    """Name of the method for readers."""
    trajectories: Sequence[Trajectory]

    @property
    def colours(self) -> tuple[Sequence[str], Sequence[str]]:
        """Colours of ends and of paths of the two tasks; grey where both take the same path."""
        rotations = self.trajectories[0].rotations
        same = np.array_equal(rotations[:, 0], rotations[:, 1])
        return (SHARED, SHARED) if same else (COLOURS, LIGHT)

    def reached(self, tolerance: float) -> list[bool]:
        """Whether a start ended within a distance of both optima."""
        return [bool((path.distances <= tolerance).all()) for path in self.trajectories]


class Toy(ComputedFigure):
    """Trajectories of both toy problems under several methods, trained when the figure is drawn.

    The upper row of a problem shows one start as the backbone sees it: the path of z on the level
    sets of the mean loss at the end, and the way of each task's optimum, which moves as its
    rotation turns. The lower row shows all starts as the tasks see them: the paths of R_k z on the
    level sets of each task's loss, and how many starts brought both tasks to their optimum.

    Args:
        name: Name of the files that are written.
        methods: Names of methods, a column each.
        starts: Number of starts; start s is the run ``rotograd train experiment=toy seed=s``.
        steps: Training steps.
        tolerance: Distance up to which an optimum counts as reached.

    Raises:
        ConfigError: If a number is out of range.
    """

    @checked
    def __init__(
        self,
        *,
        name: str,
        methods: Sequence[str],
        starts: AtLeastOne,
        steps: AtLeastOne,
        tolerance: Annotated[float, Gt(0)],
    ) -> None:
        super().__init__(name=name)
        self.methods = methods
        self.starts = starts
        self.steps = steps
        self.tolerance = tolerance

    def draw(self) -> Drawing:
        """Train all runs and draw them."""
        rows = [[self._panel(problem, method) for method in self.methods] for problem in OPTIMA]
        start = self._shown([panels[-1] for panels in rows])
        canvas = new_canvas(height=11.6)
        axes = canvas.subplots(2 * len(rows), len(self.methods), squeeze=False)
        for index, panels in enumerate(rows):
            for column, panel in enumerate(panels):
                draw_features(axes[2 * index, column], panel, start)
                draw_points(axes[2 * index + 1, column], panel, self.tolerance)
        _label(axes, [panel.label for panel in rows[0]], start)
        canvas.suptitle("Can one z bring both tasks to their optimum?", weight="bold")
        handles = legend_lines(axes[0, 0], self.tolerance)
        canvas.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
        numbers = _numbers(itertools.chain(*rows), self.tolerance)
        return Drawing(canvas, *numbers, [self._counts(panels) for panels in rows])

    def _panel(self, problem: Problem, method: str) -> Panel:
        config = configuration(problem, method, self.steps)
        trajectories = [trajectory(config, seed) for seed in range(self.starts)]
        return Panel(problem, method, method_label(config.method), trajectories)

    def _shown(self, panels: Sequence[Panel]) -> int:
        """Return the first start that reached all optima of all panels, 0 if none did."""
        reached = zip(*(panel.reached(self.tolerance) for panel in panels), strict=True)
        return next((start for start, all_of in enumerate(reached) if all(all_of)), 0)

    def _counts(self, panels: Sequence[Panel]) -> str:
        counts = (f"{panel.label} {sum(panel.reached(self.tolerance))}" for panel in panels)
        return (
            f"{panels[0].problem}: of {self.starts} starts, so many end within {self.tolerance:g} "
            f"of both optima: {', '.join(counts)}."
        )


def draw_features(axes: "Axes", panel: Panel, start: int) -> None:
    """Draw one start as the backbone sees it, in z."""
    path = panel.trajectories[start]
    grid, x = _grid(panel.problem)
    seen = np.einsum("kij,abj->kabi", path.rotations[-1], grid)
    losses = [_loss(panel.problem, seen[k] - path.optima[k]) for k in range(len(TASKS))]
    axes.contourf(x, x, np.mean(losses, axis=0), levels=len(GREYS) - 1, colors=GREYS)
    for k, colour in enumerate(COLOURS):
        way = path.optima_in_z[:, k]
        axes.plot(*way.T, color=colour, linewidth=1.2, linestyle=(0, (2, 1.5)))
        axes.plot(*way[0], marker="*", color="white", markeredgecolor=colour, markersize=9)
        axes.plot(*way[-1], marker="*", color=colour, markeredgecolor="white", markersize=14)
    axes.plot(*path.features.T, color="black", linewidth=1.8)
    axes.plot(*path.features[0], marker="s", color="white", markeredgecolor="black", markersize=6)
    axes.plot(*path.features[-1], marker="o", color="black", markeredgecolor="white", markersize=7)


def draw_points(axes: "Axes", panel: Panel, tolerance: float) -> None:
    """Draw all starts as the tasks see them, in R_k z."""
    grid, x = _grid(panel.problem)
    reached = panel.reached(tolerance)
    ends, ways = panel.colours
    for k, colour in enumerate(COLOURS):
        optimum = panel.trajectories[0].optima[k]
        loss = _loss(panel.problem, grid - optimum)
        axes.contour(x, x, loss, levels=7, colors=LIGHT[k], linewidths=0.4, linestyles="solid")
        axes.plot(
            *optimum, marker="*", color=colour, markeredgecolor="white", markersize=14, zorder=4
        )
        for path, is_reached in zip(panel.trajectories, reached, strict=True):
            axes.plot(*path.points[:, k].T, color=ways[k], linewidth=0.9)
            fill = ends[k] if is_reached else "white"
            end = path.points[-1, k]
            axes.plot(*end, marker="o", color=fill, markeredgecolor=ends[k], markersize=4.5)
    axes.set_title(f"both reached: {sum(reached)} of {len(reached)}", weight="bold")


def _grid(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return points of the plane ``[G, G, 2]`` and their coordinates along an axis ``[G]``."""
    x = np.linspace(-HALF_WIDTHS[problem], HALF_WIDTHS[problem], GRID)
    return np.stack(np.meshgrid(x, x), axis=-1), x


def _loss(problem: Problem, offsets: np.ndarray) -> np.ndarray:
    return np.asarray(LOSSES[problem](torch.from_numpy(offsets)))


def _label(rows: np.ndarray, labels: Sequence[str], start: int) -> None:
    """Write titles and axes' names; make all panels square."""
    for axes, label in zip(rows[0], labels, strict=True):
        axes.set_title(label, weight="bold")
    for index, problem in enumerate(OPTIMA):
        rows[2 * index, 0].set_ylabel(f"{problem}: z of start {start}")
        rows[2 * index + 1, 0].set_ylabel(f"{problem}: $R_k z$ of all starts")
        for axes in rows[2 * index : 2 * index + 2].flat:
            limits = (-HALF_WIDTHS[problem], HALF_WIDTHS[problem])
            axes.set(xlim=limits, ylim=limits, aspect="equal", xticks=[], yticks=[])
            axes.spines[:].set_visible(True)


def legend_lines(axes: "Axes", tolerance: float) -> list[Any]:
    """Return lines without points that show what each style means."""
    entries: tuple[tuple[str, dict[str, Any]], ...] = (
        ("left task", {"color": COLOURS[0]}),
        ("right task", {"color": COLOURS[1]}),
        ("z", {"color": "black"}),
        ("both tasks, the same path", {"color": SHARED[0]}),
        ("optimum of a task", {"marker": "*", "color": "grey", "linestyle": "", "markersize": 11}),
        ("its way as $R_k$ turns", {"color": "grey", "linestyle": (0, (2, 1.5))}),
        ("start", {"marker": "s", "linestyle": "", **_hollow("black")}),
        (f"end, both within {tolerance:g}", {"marker": "o", "color": "grey", "linestyle": ""}),
        ("end, not both", {"marker": "o", "linestyle": "", **_hollow("grey")}),
    )
    return [axes.plot([], [], label=text, **style)[0] for text, style in entries]


def _hollow(colour: str) -> dict[str, Any]:
    return {"color": "white", "markeredgecolor": colour}


def _numbers(panels: Iterable[Panel], tolerance: float) -> tuple[list[str], list[list[Value]]]:
    """Return where every start began and ended."""
    columns = ["problem", "method", "start", "reached"]
    columns += [f"{when}_{axis}" for when in ("start", "end") for axis in ("z1", "z2")]
    columns += [f"distance_{task}" for task in TASKS]
    rows: list[list[Value]] = []
    for panel in panels:
        for start, path in enumerate(panel.trajectories):
            reached = bool((path.distances <= tolerance).all())
            ends = np.concatenate((path.features[0], path.features[-1], path.distances)).tolist()
            rows.append([panel.problem, panel.method, start, int(reached), *ends])
    return columns, rows
