"""Values of a batch that no training can use.

The checks read values, so they wait for the device: they are for the time before training, and for
the moment in which something has gone wrong.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.losses import binary_cross_entropy, target_rule
from rotograd_cli.training.batch_checks import require, where

MANY_ONES = 100
"""Ones without a single zero that are no accident in a part of a split."""


def find_fault(
    batches: Iterable[Batch],
    tasks: Sequence[Task],
    dataset: str,
    split: str,
    suspects: Collection[str] = (),
) -> str | None:
    """Return the first value that the losses of this package cannot take, as a sentence.

    Args:
        batches: Of the right form.
        tasks: The K tasks.
        dataset: Name of the data set.
        split: Name of the split.
        suspects: Tasks whose loss is not finite: those with a loss of the user's need a finite
            target too.

    Returns:
        The sentence; None if all values are fine.
    """
    faults = (
        fault for batch in batches for fault in _faults(batch, tasks, dataset, split, suspects)
    )
    return next(faults, None)


def _faults(
    batch: Batch, tasks: Sequence[Task], dataset: str, split: str, suspects: Collection[str]
) -> Iterator[str]:
    num = int((~batch.inputs.isfinite().flatten(1).all(1)).sum())
    if num:
        yield (
            f"{where(dataset, split)}: inputs must be finite, got NaN or infinity in {num} of "
            f"{len(batch.inputs)} examples; leave those out or fill them, e.g. with "
            "inputs.nan_to_num(0, 0, 0)."
        )
    for task in tasks:
        if task.name in batch.targets:
            target = batch.targets[task.name]
            place = where(dataset, split, task.name)
            if target_rule(task.loss) is not None:
                yield from _faults_by_rule(target, task, place)
            elif task.name in suspects:
                yield from _faults_for_own_loss(target, place)


def _faults_by_rule(target: Tensor, task: Task, place: str) -> Iterator[str]:
    rule = target_rule(task.loss)
    assert rule is not None
    wrong = target[rule.wrong(target, task.num_outputs)]
    if not len(wrong):
        return
    last = task.num_outputs - 1
    is_whole = not target.is_floating_point()  # NaN and infinity are no integers
    remedy = "correct the labels" + (", or the task's num_outputs" if last else "")
    if last and is_whole and int(wrong.max()) == last + 1 and int(target.min()) == 1:
        remedy = "write target - 1"
    yield (
        f"{place}: the target must be {rule.needed.format(last=last, void=-1)}, got "
        f"{wrong[0].item():g} in {len(wrong)} of {target.numel()} elements; {remedy}."
    )


def _faults_for_own_loss(target: Tensor, place: str) -> Iterator[str]:
    num = int((~target.isfinite()).sum())
    if num:
        yield (
            f"{place}: the target is NaN or infinite in {num} of {target.numel()} elements, which "
            "a loss of one's own has to leave out; the losses of rotograd_cli.tasks.losses leave "
            "out NaN."
        )


class SeenFlags:
    """Values of the targets of binary tasks: -1 for "no" would be taken for no label.

    Args:
        tasks: The K tasks.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        names = [task.name for task in tasks if task.loss is binary_cross_entropy]
        self._values: dict[str, set[float]] = {name: set() for name in names}
        self._num_ones = dict.fromkeys(names, 0)

    def add(self, batch: Batch) -> None:
        """Look at a batch."""
        for name in self._values.keys() & batch.targets.keys():
            target = batch.targets[name]
            self._values[name].update(torch.unique(target).tolist())
            self._num_ones[name] += int((target == 1).sum())

    def check(self, dataset: str, split: str, *, is_whole: bool) -> None:
        """Refuse targets without any 0.

        Args:
            dataset: Name of the data set.
            split: Name of the split.
            is_whole: Whether the whole split was looked at; a part must hold many ones.

        Raises:
            ConfigError: If a target is -1 or 1 throughout.
        """
        for name, values in self._values.items():
            is_enough = is_whole or self._num_ones[name] >= MANY_ONES
            require(
                not (values == {-1, 1} and is_enough),
                f"{where(dataset, split, name)}: the target",
                "be 0 or 1, or -1 for no label",
                "-1 and 1 without any 0",
                "if -1 means no, write (target > 0).float()",
            )
