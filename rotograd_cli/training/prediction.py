"""Predictions for examples of a data set, batch by batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.data.base import MultiTaskDataset, Split, in_parts
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.training.batches import complete_batches
from rotograd_cli.training.objective import predict
from rotograd_cli.trees import Inputs


@dataclass(frozen=True)
class PredictedBatch:
    """Examples with what a model predicts for them; tensors without gradients, on its device."""

    indices: Tensor
    """Positions in the split, int64, shape ``[N]``, on the CPU."""
    inputs: Inputs
    """As the data set returns them, shape ``[N, *input_shape]`` or a tree."""
    targets: Mapping[str, Tensor]
    """By task, as the data set returns them; a task without a target in this batch is missing."""
    predictions: Mapping[str, Tensor]
    """By task, in the order of the tasks: what its loss takes, float32 or wider, shape
    ``[N, num_outputs, *map_shape]``."""


@torch.no_grad()
def predict_examples(
    model: MultiTaskMethod,
    dataset: MultiTaskDataset,
    split: Split,
    indices: Sequence[int] | Tensor,
    *,
    batch_size: int | None = None,
) -> Iterator[PredictedBatch]:
    """Yield examples of a split with their predictions, without augmentation.

    Until the iterator is exhausted or closed, the model is in evaluation mode and its parameters
    must stay as they are: rotations are computed once. Afterwards every module has its mode back.
    Random generators are left alone.

    Args:
        model: The network with its method.
        dataset: The data, of the same tasks and on the same device.
        split: The split.
        indices: Positions in the split, in the order in which they are wanted.
        batch_size: Examples of a batch; the last one may have fewer. None takes all at once.

    Yields:
        The batches, in order; none where there are no indices.

    Raises:
        ConfigError: If the data set leaves a batch out.
        CheckpointError: If the bases of the rotations are not orthogonal.
    """
    order = torch.as_tensor(indices, dtype=torch.int64)
    if len(order) == 0:
        return
    parts = in_parts(order, batch_size or len(order))
    with model.evaluating():
        batches = complete_batches(dataset, split, parts)
        for part, batch in zip(parts, batches, strict=True):
            predictions = zip(dataset.tasks, predict(model, batch), strict=True)
            by_task = {task.name: prediction for task, prediction in predictions}
            yield PredictedBatch(part, batch.inputs, batch.targets, by_task)
