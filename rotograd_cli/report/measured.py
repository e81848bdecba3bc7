"""What a checkpoint predicts, as far as the page shows it: counts of classes, pairs of numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rotograd_cli.data.base import MultiTaskDataset, Split
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.pictures import Example, Kind, draw_examples, kind_of
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.dense_metrics import ConfusionMatrix
from rotograd_cli.tasks.labels import NO_LABEL
from rotograd_cli.training.prediction import PredictedBatch, predict_examples

MAX_PAIRS = 400
"""Examples in a scatter plot."""
LIMIT = 2000
DENSE_LIMIT = 100
"""Examples that are predicted by default, without and with dense tasks."""
EXAMPLES = 12
DENSE_EXAMPLES = 3
"""Examples that are drawn by default."""


@dataclass(frozen=True)
class Measured:
    """Predictions of one split by one checkpoint."""

    num: int
    """How many of its examples, the first ones, were predicted."""
    total: int
    confusions: dict[str, NDArray[np.int64]]
    """By task with classes: counts by true and predicted class."""
    kinds: dict[str, Kind]
    """By task."""
    pairs: dict[str, list[tuple[float, float]]]
    """By task with one number per example: true value and prediction."""
    examples: list[Example]


def measure(
    model: MultiTaskMethod,
    dataset: MultiTaskDataset,
    split: Split,
    *,
    limit: int | None,
    num_examples: int | None,
    batch_size: int,
) -> Measured:
    """Predict the first examples of a split.

    Args:
        model: The network; it is put into evaluation mode and back.
        dataset: The data.
        split: Which split.
        limit: How many examples at most; None for ``LIMIT``, of dense tasks ``DENSE_LIMIT``.
        num_examples: How many of them are drawn, evenly spread; None for ``EXAMPLES``, of dense
            tasks ``DENSE_EXAMPLES``.
        batch_size: Examples that are predicted at once.
    """
    is_dense = any(task.map_shape for task in dataset.tasks)
    total = dataset.num_examples(split)
    num = min(total, limit or (DENSE_LIMIT if is_dense else LIMIT))
    collectors: dict[str, _Collector] = {}
    everything = torch.arange(num)
    for batch in predict_examples(model, dataset, split, everything, batch_size=batch_size):
        _collect(collectors, dataset.tasks, batch)
    if num_examples is None:
        num_examples = DENSE_EXAMPLES if is_dense else EXAMPLES
    chosen = torch.linspace(0, num - 1, min(num_examples, num)).round().long()
    examples = [
        example
        for b in predict_examples(model, dataset, split, chosen, batch_size=batch_size)
        for example in draw_examples(dataset, b.inputs, b.targets, b.predictions)
    ]
    kinds = {name: each.kind for name, each in collectors.items()}
    pairs = {name: each.pairs for name, each in collectors.items() if each.pairs}
    return Measured(num, total, _confusions(collectors), kinds, pairs, examples)


class _Collector:
    """Counts or pairs of one task."""

    def __init__(self, task: Task, kind: Kind, device: torch.device) -> None:
        self.kind = kind
        self.pairs: list[tuple[float, float]] = []
        void = task.loss.keywords.get("void", NO_LABEL) if isinstance(task.loss, partial) else -1
        self.matrix = ConfusionMatrix(max(2, task.num_outputs), void).to(device)

    def add(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        if self.kind in ("class", "class_map", "binary"):
            classes = prediction.argmax(1) if prediction.shape[1] > 1 else prediction[:, 0] > 0
            self.matrix.update(classes.long(), target)
        elif self.kind == "number" and prediction.shape[1:] == (1,) and target.dim() == 1:
            room = MAX_PAIRS - len(self.pairs)
            columns = (target[:room].tolist(), prediction[:room, 0].tolist())
            self.pairs += [pair for pair in zip(*columns, strict=True) if np.isfinite(pair).all()]


def _collect(
    collectors: dict[str, _Collector],
    tasks: Iterable[Task],
    batch: PredictedBatch,
) -> None:
    for task in tasks:
        target = batch.targets.get(task.name)
        if target is None:
            continue
        prediction = batch.predictions[task.name]
        if task.name not in collectors:
            kind = kind_of(task, target)
            collectors[task.name] = _Collector(task, kind, prediction.device)
        collectors[task.name].add(prediction, target)


def _confusions(collectors: Mapping[str, _Collector]) -> dict[str, NDArray[np.int64]]:
    confusions = {}
    for name, each in collectors.items():
        counts = each.matrix.counts[:-1].cpu().numpy()
        if counts.sum() > 0:
            size = each.matrix.num_classes
            confusions[name] = counts.reshape(size, size)
    return confusions


def ious(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the intersection over union of every class; NaN for a class that never occurs.

    Args:
        counts: Counts by true and predicted class, shape ``[C, C]``.
    """
    both = np.diagonal(counts).astype(float)
    either = counts.sum(0) + counts.sum(1) - both
    result: NDArray[np.float64] = np.divide(
        both, either, out=np.full(len(both), np.nan), where=either > 0
    )
    return result
