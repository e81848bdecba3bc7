"""What an evaluation shows beside numbers: a few examples, and which class was taken for which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset
from rotograd_cli.pictures import draw_examples, sheet
from rotograd_cli.pictures.colours import RGB
from rotograd_cli.ranks.base import Ranks
from rotograd_cli.training.confusions import Confusions
from rotograd_cli.trees import map_tensors

EXAMPLES = "val/examples"
"""Name of the picture of examples."""


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
        self._counts = Confusions(self.dataset.tasks if self.confusion else (), device)

    def add(self, batch: Batch, predictions: Sequence[Tensor]) -> None:
        """See a batch; nothing here waits for the device.

        Args:
            batch: Inputs and targets.
            predictions: One per task.
        """
        by_task = dict(zip((t.name for t in self.dataset.tasks), predictions, strict=True))
        if self._shown is None and self.num_examples:
            self._shown = _first_examples(batch, by_task, self.num_examples)
        self._counts.add(by_task, batch.targets)

    def finish(self, ranks: Ranks) -> None:
        """Add up the counts over all ranks; each of them calls this."""
        self.confusions = self._counts.counts(ranks)

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
    return Batch(map_tensors(lambda x: x[:num].clone(), batch.inputs), targets), shown
