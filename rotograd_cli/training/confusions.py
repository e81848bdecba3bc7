"""Which class was taken for which: counted for every task with classes, over a split."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rotograd_cli.pictures import kind_of
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.dense_metrics import ConfusionMatrix
from rotograd_cli.tasks.labels import NO_LABEL, is_labelled, no_class
from rotograd_cli.tasks.losses import target_rule

MAX_CLASSES = 100
"""Classes of a task beyond which no confusion matrix is counted: nobody could read it."""


class Confusions:
    """Counts of labelled elements by true and predicted class; nothing waits until the end.

    Args:
        tasks: Tasks, of any kind.
        device: Where predictions are.
    """

    def __init__(self, tasks: Sequence[Task], device: torch.device) -> None:
        self._tasks = tasks
        sizes = {task.name: max(task.num_outputs, 2) for task in tasks}  # one output: yes or no
        self._matrices = {
            name: ConfusionMatrix(size, NO_LABEL).to(device)
            for name, size in sizes.items()
            if size <= MAX_CLASSES
        }

    def add(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            predictions: Raw predictions by task.
            targets: Targets by task; a task without one is left out.
        """
        for task in self._tasks:
            if task.name in targets and task.name in self._matrices:
                matrix = self._matrices[task.name]
                _count(matrix, task, predictions[task.name], targets[task.name])

    def counts(self, ranks: Ranks = ONE) -> dict[str, NDArray[np.int64]]:
        """Return the counts by task: true class (row), predicted class; shape ``[C, C]``.

        Tasks without a counted element, regressions among them, have none.

        Args:
            ranks: Processes whose counts are added up; each of them calls this.
        """
        result = {}
        for name, matrix in self._matrices.items():
            counts = ranks.sum(matrix.counts[:-1]).view(matrix.num_classes, -1)
            if counts.any():
                result[name] = counts.cpu().numpy()
        return result


def _count(matrix: ConfusionMatrix, task: Task, prediction: Tensor, target: Tensor) -> None:
    """Count a batch, if it holds classes, or yes and no.

    Left out are elements without a label, with a target that is no class (a probability, say) or
    with a NaN in the prediction.
    """
    if kind_of(task, target) not in ("binary", "class", "class_map"):
        return
    one_output = task.num_outputs == 1
    classes = (prediction > 0).squeeze(1).long() if one_output else prediction.argmax(1)
    if classes.shape != target.shape:  # of several labels per example, with a loss of the user's
        return
    rule = target_rule(task.loss)
    labelled = is_labelled(target) if rule is None else rule.labelled(target)
    is_class = (target == target.round()) & ~no_class(target, matrix.num_classes)
    counted = labelled & is_class & ~prediction.isnan().any(1)
    matrix.update(classes, torch.where(counted, target.long(), NO_LABEL))
