"""Predictions of dense tasks as maps: the truth, the prediction, and where it errs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rotograd_cli.pictures.colours import (
    RGB,
    paint_classes,
    paint_normals,
    paint_numbers,
    paint_right,
)
from rotograd_cli.pictures.kinds import Kind
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.element_errors import accurate_angles
from rotograd_cli.tasks.labels import NO_LABEL, has_normal, no_class
from rotograd_cli.tasks.losses import target_rule

MAX_CHANNELS = 3
MAX_ANGLE = 60.0
"""Angle in degrees at the upper end of the scale of errors of normals."""


@dataclass(frozen=True)
class Maps:
    """One example's map of a task; the three pictures have one size."""

    title: str
    """The task; of a task with several maps of numbers, the channel too."""
    truth: RGB | None
    """None where the example has no label."""
    prediction: RGB
    error: RGB | None
    values: str
    """What the colours of truth and prediction mean."""
    errors: str
    """What the colours of the error mean."""


def draw_maps(
    task: Task, kind: Kind, prediction: Tensor, target: Tensor | None
) -> list[tuple[Maps, ...]]:
    """Draw the maps of a few examples, all of them with the same scale.

    Args:
        task: A task with a two-dimensional ``map_shape``.
        kind: Its kind.
        prediction: The head's output, shape ``[N, num_outputs, H, W]``.
        target: As the task's loss takes it; None where there is none.

    Returns:
        The maps of every example: one, or one per channel of numbers, at most ``MAX_CHANNELS``.
    """
    prediction = prediction.detach().cpu().float()
    truth = None if target is None else target.detach().cpu()
    return _DRAW[kind](task, prediction, truth)


def _draw_classes(task: Task, logits: Tensor, target: Tensor | None) -> list[tuple[Maps, ...]]:
    if task.num_outputs == 1:  # one logit: yes or no
        logits = torch.cat((torch.zeros_like(logits), logits), 1)
    num = logits.shape[1]
    classes = torch.where(logits.isnan().any(1), NO_LABEL, logits.argmax(1)).numpy()
    predictions = [paint_classes(each, num) for each in classes]
    words = ("colours are classes, grey has no label", "wrong pixels are red")
    if target is None:
        return [(Maps(task.name, None, picture, None, *words),) for picture in predictions]
    rule = target_rule(task.loss)
    labelled = rule.labelled(target) if rule else ~no_class(target, num) & (target != NO_LABEL)
    truth = torch.where(labelled, target.long(), NO_LABEL).numpy()
    return [
        (Maps(task.name, paint_classes(t, num), picture, paint_right(c == t, seen), *words),)
        for t, c, seen, picture in zip(truth, classes, labelled.numpy(), predictions, strict=True)
    ]


def _draw_normals(task: Task, vectors: Tensor, target: Tensor | None) -> list[tuple[Maps, ...]]:
    words = (
        "red, green and blue are x, y and z",
        f"angle from black, 0°, to yellow, {MAX_ANGLE:.0f}°",
    )
    predictions = [paint_normals(each) for each in vectors.numpy()]
    if target is None:
        return [(Maps(task.name, None, picture, None, *words),) for picture in predictions]
    truth = torch.where(has_normal(target), target.float(), torch.nan)
    angles, valid = accurate_angles(vectors, target.float())
    errors = torch.where(valid, angles[0], torch.nan).reshape(-1, *vectors.shape[2:]).numpy()
    return [
        (Maps(task.name, paint_normals(t), picture, _angle_map(error), *words),)
        for t, error, picture in zip(truth.numpy(), errors, predictions, strict=True)
    ]


def _angle_map(angles: NDArray[np.floating]) -> RGB:
    return paint_numbers(angles, 0.0, MAX_ANGLE, "inferno")


def _draw_numbers(task: Task, values: Tensor, target: Tensor | None) -> list[tuple[Maps, ...]]:
    if target is not None:
        target = target.float().reshape(values.shape)
        rule = target_rule(task.loss)
        labelled = rule.labelled(target) if rule else ~target.isnan()
        target = torch.where(labelled, target, torch.nan)
    shown = min(values.shape[1], MAX_CHANNELS)
    titles = [task.name] if values.shape[1] == 1 else [f"{task.name} {c}" for c in range(shown)]
    channels = [
        _draw_channel(title, values[:, c].numpy(), None if target is None else target[:, c].numpy())
        for c, title in enumerate(titles)
    ]
    return list(zip(*channels, strict=True))


def _draw_channel(
    title: str, values: NDArray[np.floating], truth: NDArray[np.floating] | None
) -> list[Maps]:
    low, high = _ends(values if truth is None else truth)
    words = f"from blue, {low:.3g}, to yellow, {high:.3g}"
    predictions = [paint_numbers(each, low, high, "viridis") for each in values]
    if truth is None:
        return [Maps(title, None, picture, None, words, "") for picture in predictions]
    errors = np.abs(values - truth)
    _, most = _ends(errors)
    error_words = f"absolute error from black, 0, to yellow, {most:.3g}"
    return [
        Maps(
            title,
            paint_numbers(t, low, high, "viridis"),
            picture,
            paint_numbers(error, 0.0, most, "inferno"),
            words,
            error_words,
        )
        for t, error, picture in zip(truth, errors, predictions, strict=True)
    ]


def _ends(values: NDArray[np.floating]) -> tuple[float, float]:
    """Return the 1st and the 99th percentile of the finite values, so that outliers stay out."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, (1, 99))
    return float(low), float(high)


_DRAW: dict[Kind, Callable[[Task, Tensor, Tensor | None], list[tuple[Maps, ...]]]] = {
    "class_map": _draw_classes,
    "normal_map": _draw_normals,
    "depth_map": _draw_numbers,
    "number_map": _draw_numbers,
}
