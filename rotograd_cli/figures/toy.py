"""The paper's figure 1: both toy problems, seen by the backbone and seen by the heads."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Gt

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.config.labels import method_label
from rotograd_cli.data.toy import LOSSES, TASKS, Problem
from rotograd_cli.errors import ConfigError
from rotograd_cli.figures.base import ComputedFigure
from rotograd_cli.figures.canvas import Drawing, Value, new_canvas
from rotograd_cli.figures.toy_paths import Trajectory, configuration, trajectory

if TYPE_CHECKING:
    from rotograd_cli.figures.canvas import Axes

View = Literal["backbone", "tasks"]
"""Whose eyes a row of panels is seen with: z of one start, or R_k z of all."""

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

    A row ``backbone`` shows one start as the backbone sees it: the path of z on the level sets of
    the mean loss at the end, and the way of each task's optimum, which moves as its rotation turns.
    A row ``tasks`` shows all starts as the tasks see them: the paths of R_k z on the level sets of
    each task's loss, and how many starts brought both tasks to their optimum.

    Args:
        name: Name of the files that are written.
        problems: The problems to draw.
        views: The rows of each problem.
        methods: Names of methods, a column each.
        starts: Number of starts; start s is the run ``rotograd train experiment=toy seed=s``.
        steps: Training steps.
        tolerance: Distance up to which an optimum counts as reached.

    Raises:
        ConfigError: If a number is out of range, or a list is empty.
    """

    @checked
    def __init__(
        self,
        *,
        name: str,
        problems: Sequence[Problem],
        views: Sequence[View],
        methods: Sequence[str],
        starts: AtLeastOne,
        steps: AtLeastOne,
        tolerance: Annotated[float, Gt(0)],
    ) -> None:
        super().__init__(name=name)
        for key, names in (("problems", problems), ("views", views), ("methods", methods)):
            if not names:
                raise ConfigError(f"`figure.{key}` must name at least one, got [].")
        self.problems = problems
        self.views = views
        self.methods = methods
        self.starts = starts
        self.steps = steps
        self.tolerance = tolerance

    def draw(self) -> Drawing:
        """Train all runs and draw them."""
        problems = [
            [self._panel(name, method) for method in self.methods] for name in self.problems
        ]
        start = self._shown([panels[-1] for panels in problems])
        rows = list(itertools.product(problems, self.views))
        canvas = new_canvas(height=0.8 + 8.1 / len(self.methods) * len(rows))
        grid = canvas.subplots(len(rows), len(self.methods), squeeze=False)
        for line, (panels, view) in zip(grid, rows, strict=True):
            for axes, panel in zip(line, panels, strict=True):
                self._draw_panel(axes, panel, view, start)
            _label(line[0], panels[0].problem, view, start)
        for axes, panel in zip(grid[0], problems[0], strict=True):
            axes.set_title(f"{panel.label}\n{axes.get_title()}".strip(), weight="bold")
        canvas.suptitle("Can one z bring both tasks to their optimum?", weight="bold")
        handles = legend_lines(grid[0, 0], self.views, self.tolerance)
        canvas.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
        numbers = _numbers(itertools.chain(*problems), self.tolerance)
        return Drawing(canvas, *numbers, [self._counts(panels) for panels in problems])

    def _draw_panel(self, axes: "Axes", panel: Panel, view: View, start: int) -> None:
        """Draw a square panel."""
        if view == "backbone":
            draw_features(axes, panel, start)
        else:
            draw_points(axes, panel, self.tolerance)
        limits = (-HALF_WIDTHS[panel.problem], HALF_WIDTHS[panel.problem])
        axes.set(xlim=limits, ylim=limits, aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_visible(True)

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


def _label(axes: "Axes", problem: Problem, view: View, start: int) -> None:
    """Write the name of a row."""
    seen = f"z of start {start}" if view == "backbone" else "$R_k z$ of all starts"
    axes.set_ylabel(f"{problem}: {seen}")


def legend_lines(axes: "Axes", views: Sequence[View], tolerance: float) -> list[Any]:
    """Return lines without points that show what each style means in these views."""
    in_both: Sequence[View] = ("backbone", "tasks")
    dot = {"marker": "o", "linestyle": ""}
    star = {"marker": "*", "color": "grey", "linestyle": "", "markersize": 11}
    entries: tuple[tuple[Sequence[View], str, dict[str, Any]], ...] = (
        (in_both, "left task", {"color": COLOURS[0]}),
        (in_both, "right task", {"color": COLOURS[1]}),
        (["backbone"], "z", {"color": "black"}),
        (["tasks"], "both tasks, the same path", {"color": SHARED[0]}),
        (in_both, "optimum of a task", star),
        (["backbone"], "its way as $R_k$ turns", {"color": "grey", "linestyle": (0, (2, 1.5))}),
        (["backbone"], "start", {"marker": "s", "linestyle": "", **_hollow("black")}),
        (["tasks"], f"end, both within {tolerance:g}", {**dot, "color": "grey"}),
        (["tasks"], "end, not both", {**dot, **_hollow("grey")}),
    )
    return [
        axes.plot([], [], label=text, **style)[0]
        for shown_in, text, style in entries
        if set(shown_in) & set(views)
    ]


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
