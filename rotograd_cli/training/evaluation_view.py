"""What an evaluation shows beside numbers: a few examples, and which class was taken for which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset
from rotograd_cli.pictures import draw_examples, kind_of, sheet
from rotograd_cli.pictures.colours import RGB
from rotograd_cli.ranks.base import Ranks
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.dense_metrics import ConfusionMatrix
from rotograd_cli.tasks.labels import NO_LABEL, is_labelled, no_class
from rotograd_cli.tasks.losses import target_rule

EXAMPLES = "val/examples"
"""Name of the picture of examples."""
MAX_CLASSES = 100
"""Classes of a task beyond which no confusion matrix is counted: nobody could read it."""


def confusion_key(task: str) -> str:
    """Return the name of a task's confusion matrix."""
    return f"val/{task}/confusion"


@dataclass
class EvaluationView:
    """Looks on while a split is evaluated; takes no pass of its own and changes no number.

    Args:
        dataset: The data.
        num_examples: Examples to draw: the first ones that the first rank reads, so the same in
            every evaluation; at most one batch.
        confusion: Whether to count confusion matrices.
    """

    dataset: MultiTaskDataset
    num_examples: int
    confusion: bool
    confusions: dict[str, NDArray[np.int64]] = field(default_factory=dict, init=False)
    """By task: labelled elements by true class (row) and predicted class, shape ``[C, C]``."""

    def begin(self, device: torch.device) -> None:
        """Forget the evaluation before.

        Args:
            device: Where batches and predictions are.
        """
        self._shown: tuple[Batch, dict[str, Tensor]] | None = None
        self._matrices: dict[str, ConfusionMatrix] = {}
        for task in self.dataset.tasks if self.confusion else ():
            num = max(task.num_outputs, 2)  # one output: yes or no
            if num <= MAX_CLASSES:
                self._matrices[task.name] = ConfusionMatrix(num, NO_LABEL).to(device)

    def add(self, batch: Batch, predictions: Sequence[Tensor]) -> None:
        """See a batch; nothing here waits for the device.

        Args:
            batch: Inputs and targets.
            predictions: One per task.
        """
        by_task = dict(zip((t.name for t in self.dataset.tasks), predictions, strict=True))
        if self._shown is None and self.num_examples:
            self._shown = _first_examples(batch, by_task, self.num_examples)
        for task in self.dataset.tasks:
            if task.name in self._matrices and task.name in batch.targets:
                target = batch.targets[task.name]
                _count(self._matrices[task.name], task, by_task[task.name], target)

    def finish(self, ranks: Ranks) -> None:
        """Add up the counts over all ranks; each of them calls this.

        Tasks without a counted element, regressions among them, have no matrix.
        """
        self.confusions = {}
        for name, matrix in self._matrices.items():
            counts = ranks.sum(matrix.counts[:-1]).view(matrix.num_classes, -1)
            if counts.any():
                self.confusions[name] = counts.cpu().numpy()

    def sheet(self) -> RGB | None:
        """Draw the examples with their predictions; None where none were asked for."""
        if self._shown is None:
            return None
        batch, predictions = self._shown
        return sheet(draw_examples(self.dataset, batch.inputs, batch.targets, predictions))


def _first_examples(
    batch: Batch, predictions: Mapping[str, Tensor], num: int
) -> tuple[Batch, dict[str, Tensor]]:
    """Return copies: a data set may fill its tensors again."""
    targets = {name: target[:num].clone() for name, target in batch.targets.items()}
    shown = {name: prediction[:num].clone() for name, prediction in predictions.items()}
    return Batch(batch.inputs[:num].clone(), targets), shown


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
