"""A few examples of a data set with their predictions, as pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from rotograd_cli.data.base import MultiTaskDataset
from rotograd_cli.pictures.answers import Answer, answer
from rotograd_cli.pictures.colours import RGB
from rotograd_cli.pictures.kinds import Kind, kind_of
from rotograd_cli.pictures.maps import Maps, draw_maps
from rotograd_cli.tasks import Task
from rotograd_cli.trees import Inputs, num_rows

LARGEST = 192
"""Largest height and width of a picture by default, in pixels."""


@dataclass(frozen=True)
class Example:
    """One example: its input, and what is predicted for it."""

    image: RGB | None
    """None where inputs are no images."""
    answers: tuple[Answer, ...]
    """Tasks with one answer per example."""
    maps: tuple[Maps, ...]
    """Dense tasks with two-dimensional maps; others are not drawn."""


def draw_examples(
    dataset: MultiTaskDataset,
    inputs: Inputs,
    targets: Mapping[str, Tensor],
    predictions: Mapping[str, Tensor],
    *,
    largest: int = LARGEST,
) -> list[Example]:
    """Draw a few examples.

    Args:
        dataset: What they are of; it says how inputs are shown and what the tasks are.
        inputs: As its batches have them, on any device.
        targets: Targets by task; a task may be missing.
        predictions: Outputs of the heads by task, shape ``[N, num_outputs, *map_shape]``; a task
            without a prediction is left out.
        largest: Largest height and width of a picture in pixels; larger ones are shrunk by a
            whole number.

    Returns:
        The N examples.
    """
    num = num_rows(inputs)
    images = _images(dataset, inputs, largest)
    answers: list[list[Answer]] = [[] for _ in range(num)]
    maps: list[list[Maps]] = [[] for _ in range(num)]
    for task in dataset.tasks:
        if task.name not in predictions:
            continue
        prediction, target = predictions[task.name], targets.get(task.name)
        kind = kind_of(task, target)
        if not task.map_shape:
            for each, words in zip(answers, _answers(task, kind, prediction, target), strict=True):
                each.append(words)
        elif len(task.map_shape) == 2:
            truth = target if _is_map(task, target) else None
            small = None if truth is None else _shrink(truth, largest)
            drawn = draw_maps(task, kind, _shrink(prediction, largest), small)
            for row, shown in zip(maps, drawn, strict=True):
                row.extend(shown)
    rows = zip(images, answers, maps, strict=True)
    return [Example(image, tuple(words), tuple(drawn)) for image, words, drawn in rows]


def _images(dataset: MultiTaskDataset, inputs: Inputs, largest: int) -> list[RGB | None]:
    shown = dataset.images(inputs) if isinstance(inputs, Tensor) else None
    if shown is None:
        return [None] * num_rows(inputs)
    shown = shown.detach().cpu().float()
    height, width = shown.shape[2:]
    step = _step(height, width, largest)
    if step > 1:
        size = (-(-height // step), -(-width // step))
        shown = interpolate(shown, size, mode="area")
    rows = shown.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).clamp(0, 1).nan_to_num()
    return list(np.rint(255 * rows.numpy()).astype(np.uint8))


def _answers(task: Task, kind: Kind, prediction: Tensor, target: Tensor | None) -> list[Answer]:
    predictions = prediction.detach().cpu().float()
    targets = [None] * len(predictions) if target is None else list(target.detach().cpu())
    return [answer(task, kind, p, t) for p, t in zip(predictions, targets, strict=True)]


def _is_map(task: Task, target: Tensor | None) -> bool:
    """Whether a target is a map of the prediction's size, channels or not."""
    if target is None or target.dim() not in (3, 4):
        return False
    channels = tuple(target.shape[1:-2])
    return tuple(target.shape[-2:]) == task.map_shape and channels in ((), (task.num_outputs,))


def _shrink(maps: Tensor, largest: int) -> Tensor:
    """Leave out rows and columns; no value is mixed with its neighbours."""
    step = _step(maps.shape[-2], maps.shape[-1], largest)
    return maps[..., ::step, ::step]


def _step(height: int, width: int, largest: int) -> int:
    return -(-max(height, width) // largest)
