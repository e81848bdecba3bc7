"""What the run recorded of its gradients: conflicts, norms, weights, rotations."""

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from rotograd_cli.report import charts, html
from rotograd_cli.report.curves import over_time
from rotograd_cli.report.html import Section
from rotograd_cli.report.page import Charts, in_script
from rotograd_cli.report.series import History, frames, has, points, positive
from rotograd_cli.runs.summary import RunSummary

MOST_FRAMES = 40
MOST_VALUES = 80_000
"""Cosines in the page, over all frames; of many tasks there are fewer frames."""
NONE_RECORDED = (
    "The run recorded no diagnostics of its gradients; train with diagnostics=basic, which is the "
    "default, or diagnostics=full."
)
NO_PAIRS = (
    "The cosines between pairs of tasks were not recorded, which diagnostics=basic does up to 10 "
    "tasks; train with diagnostics=full."
)
ONE_TASK = "With one task there are no gradients to compare."

DASHES = "solid: after the rotations, dashed: before them"
AFTER = "all pairs"

_PER_TASK = (
    ("weight", "Weight in the combination"),
    ("grad_norm", "Norm of the task gradient at the features"),
    ("cosine_to_update", "Cosine of the applied gradient with the task's"),
    ("rotation_angle", "Rotation: angle from its start, in degrees"),
    ("rotation_angle_from_identity", "Rotation: angle from the identity, in degrees"),
    ("rotation_loss", "Rotation: alignment objective"),
    ("orthogonality_error", "Rotation: deviation from orthogonality"),
)
_LOG = ("grad_norm", "orthogonality_error")
_CONFLICT = (
    ("rate", "Conflict rate: share of pairs with negative cosine"),
    ("mean_cosine", "Mean cosine over pairs"),
    ("magnitude_similarity", "Magnitude similarity of the task gradients"),
)


def gradients(history: History, summary: RunSummary, page: Charts) -> Section:
    """Return heat maps of cosines with a slider over time, and lines of all other diagnostics."""
    overall = _conflict_lines(history, page)
    per_task = _task_lines(history, summary, page)
    if not (overall or per_task):
        return Section("Gradients", html.sentence(NONE_RECORDED))
    matrices = _matrices(history, summary, page) or html.sentence(NO_PAIRS)
    if len(summary.tasks) == 1:
        matrices = html.sentence(ONE_TASK)
    # the heat maps of many tasks are taller than lines and have rows of their own
    groups = [overall + per_task]
    if len(summary.tasks) > charts.MAX_COLOURS:
        groups = [overall, per_task]
    boxes = "".join(html.cards(group, "wide") for group in groups if group)
    return Section("Gradients", matrices + boxes)


def _conflict_lines(history: History, page: Charts) -> list[str]:
    drawn = []
    for name, title in _CONFLICT:
        after = points(history, {AFTER: f"train/conflict/{name}"})
        before = points(history, {AFTER: f"train/conflict/{name}_before"})
        if after:
            heading = f"{title} ({DASHES})" if before else title
            drawn.append(page.add(heading, charts.lines(after, dashed=before)))
    return drawn


def _task_lines(history: History, summary: RunSummary, page: Charts) -> list[str]:
    drawn = []
    own = [(name, f"{name}, recorded by the method") for name in own_names(history, summary)]
    for name, title in (*_PER_TASK, *own):
        keys = {task: f"train/{task}/{name}" for task in summary.tasks}
        recorded = {task: key for task, key in keys.items() if has(history, key)}
        if not recorded:
            continue
        is_log = name in _LOG and positive(history, list(recorded.values()))
        drawn.append(over_time(title, recorded, history, page, log=is_log))
    return drawn


def own_names(history: History, summary: RunSummary) -> list[str]:
    """Return the names of further numbers of tasks, ``train/<task>/<name>``, in recorded order.

    They are those of a method's or a rule's ``diagnostics``.
    """
    known = {"loss", *(name for name, _ in _PER_TASK)}
    metrics = {f"train/{key}" for key in summary.metric_specs}
    names: dict[str, None] = {}
    for key in history:
        split, _, rest = key.partition("/")
        task, _, name = rest.partition("/")
        is_own = name and "/" not in name and name not in known and key not in metrics
        if split == "train" and task in summary.tasks and is_own:
            names[name] = None
    return list(names)


def _matrices(history: History, summary: RunSummary, page: Charts) -> str:
    """Cosine matrices before and after the rotations, with their slider; empty without cosines."""
    kinds = {"before": "cosine_before", "after": "cosine"}
    pairs = list(combinations(summary.tasks, 2))
    keys = {
        kind: [f"train/{a}/{b}/{name}" for a, b in pairs]
        for kind, name in kinds.items()
        if any(has(history, f"train/{a}/{b}/{name}") for a, b in pairs)
    }
    if not keys:
        return ""
    data = frame_data(history, keys)
    rotated = "before" in keys
    titles = {"before": "Cosines before the rotations", "after": "Cosines after the rotations"}
    if not rotated:
        titles["after"] = "Cosines between the task gradients"
    spec = charts.cosine_matrix(summary.tasks, scale_end(history, keys))
    places = {kind: page.add(titles[kind], spec) for kind in keys}
    boxes = [f'<div data-matrix="{kind}">{place}</div>' for kind, place in places.items()]
    last = len(data["steps"]) - 1
    slider = (
        '<div class="time"><button id="play" type="button">Play</button>'
        f'<input id="frame" type="range" min="0" max="{last}" value="{last}" aria-label="step">'
        '<output id="frame-step" for="frame"></output></div>'
    )
    content = in_script({"tasks": summary.tasks, **data})
    script = f'<script type="application/json" id="conflicts">{content}</script>'
    return slider + html.cards(boxes, "wide") + script


def scale_end(history: History, keys: Mapping[str, list[str]]) -> float:
    """Return the largest absolute cosine of all matrices and steps, rounded up to a tenth."""
    columns = np.concatenate([_columns(history, names) for names in keys.values()])
    largest = float(np.nanmax(np.abs(columns)))
    return max(1, math.ceil(10 * largest - 1e-9)) / 10


def frame_data(history: History, keys: Mapping[str, list[str]]) -> dict[str, list[object]]:
    """Return the cosines of a few steps, in hundredths, None where there is none.

    Args:
        history: Columns by key.
        keys: Keys of all pairs, by kind of matrix.

    Returns:
        ``steps``, and by kind a list of the pairs' values for each of them.
    """
    columns = {kind: _columns(history, names) for kind, names in keys.items()}
    recorded = np.any([np.isfinite(each).any(0) for each in columns.values()], axis=0)
    steps = history["step"][recorded]
    num_values = sum(len(each) for each in columns.values())
    chosen = frames(steps, min(MOST_FRAMES, max(2, MOST_VALUES // num_values)))
    result: dict[str, list[object]] = {"steps": steps[chosen].astype(int).tolist()}
    for kind, each in columns.items():
        result[kind] = [_hundredths(frame) for frame in each[:, recorded][:, chosen].T]
    return result


def _columns(history: History, names: list[str]) -> np.ndarray:
    missing = np.full(len(history["step"]), np.nan)
    return np.stack([history.get(name, missing) for name in names])


def _hundredths(values: np.ndarray) -> list[int | None]:
    return [round(100 * value) if np.isfinite(value) else None for value in values.tolist()]
