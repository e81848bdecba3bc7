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
    """Looks on while a split is evaluated; needs no pass of its own and changes no number.

    Args:
        dataset: The data.
        num_examples: Examples to draw: the first ones that the first rank reads, so the same ones
            in every evaluation.
        confusion: Whether to count confusion matrices.
    """

    dataset: MultiTaskDataset
    num_examples: int
    confusion: bool
    confusions: dict[str, NDArray[np.int64]] = field(default_factory=dict, init=False)
    """By task: labelled elements by true class (row) and predicted class (column), [C, C]."""

    def begin(self, device: torch.device) -> None:
        """Forget the evaluation before."""
        self._inputs: list[Tensor] = []
        self._targets: dict[str, list[Tensor]] = {}
        self._predictions: list[Sequence[Tensor]] = []
        self._counts = {t.name: _counts(t, device) for t in self.dataset.tasks if self._counts_in(t)}

    def add(self, batch: Batch, predictions: Sequence[Tensor]) -> None:
        """See a batch; nothing here waits for the device."""
        self._keep_examples(batch, predictions)
        for task, prediction in zip(self.dataset.tasks, predictions, strict=True):
            target = batch.targets.get(task.name)
            if task.name in self._counts and target is not None:
                _count(self._counts[task.name], task, prediction, target)

    def finish(self, ranks: Ranks) -> None:
        """Add up the counts of all ranks: a collective operation."""
        totals = {name: ranks.sum(matrix.counts[:-1]) for name, matrix in self._counts.items()}
        self.confusions = {
            name: total.view(round(len(total) ** 0.5), -1).cpu().numpy()
            for name, total in totals.items()
        }
