"""What a checkpoint predicts, as far as the page shows it: counts of classes, pairs of numbers."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rotograd_cli.data.base import MultiTaskDataset, Split
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.pictures import Example, Kind, draw_examples, kind_of
from rotograd_cli.training.confusions import Confusions
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

    checkpoint: str
    """``best`` or ``last``."""
    num: int
    """How many of its examples, the first ones, were predicted."""
    evaluated: int
    """How many of them, the first ones, the run's evaluation takes."""
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
    checkpoint: str,
    evaluated: int,
    limit: int | None,
    num_examples: int | None,
    batch_size: int,
) -> Measured:
    """Predict the first examples of a split, of those that the run evaluates.

    Args:
        model: The network; it is put into evaluation mode and back.
        dataset: The data.
        split: Which split.
        checkpoint: Whose weights the network has: ``best`` or ``last``.
        evaluated: How many examples the run's evaluation takes; no more are predicted.
        limit: How many examples at most; None for ``LIMIT``, of dense tasks ``DENSE_LIMIT``.
        num_examples: How many of them are drawn, evenly spread; None for ``EXAMPLES``, of dense
            tasks ``DENSE_EXAMPLES``.
        batch_size: Examples that are predicted at once.
    """
    is_dense = any(task.map_shape for task in dataset.tasks)
    num = min(evaluated, limit or (DENSE_LIMIT if is_dense else LIMIT))
    confusions = Confusions(dataset.tasks, next(model.parameters()).device)
    kinds: dict[str, Kind] = {}
    pairs: dict[str, list[tuple[float, float]]] = {}
    everything = torch.arange(num)
    for batch in predict_examples(model, dataset, split, everything, batch_size=batch_size):
        confusions.add(batch.predictions, batch.targets)
        for task in dataset.tasks:
            if task.name in batch.targets:
                kinds.setdefault(task.name, kind_of(task, batch.targets[task.name]))
                if kinds[task.name] == "number":
                    _add_pairs(pairs.setdefault(task.name, []), task.name, batch)
    if num_examples is None:
        num_examples = DENSE_EXAMPLES if is_dense else EXAMPLES
    chosen = torch.linspace(0, num - 1, min(num_examples, num)).round().long()
    examples = [
        example
        for b in predict_examples(model, dataset, split, chosen, batch_size=batch_size)
        for example in draw_examples(dataset, b.inputs, b.targets, b.predictions)
    ]
    pairs = {task: some for task, some in pairs.items() if some}  # none of several numbers, or NaN
    total = dataset.num_examples(split)
    counts = confusions.counts()
    return Measured(checkpoint, num, evaluated, total, counts, kinds, pairs, examples)


def _add_pairs(pairs: list[tuple[float, float]], name: str, batch: PredictedBatch) -> None:
    """Add true values and predictions of a task, while there is room, that are finite."""
    prediction = batch.predictions[name]
    target = batch.targets[name]
    if prediction.shape[1:] != (1,) or target.dim() != 1:
        return
    room = MAX_PAIRS - len(pairs)
    columns = (target[:room].tolist(), prediction[:room, 0].tolist())
    pairs += [pair for pair in zip(*columns, strict=True) if np.isfinite(pair).all()]


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
