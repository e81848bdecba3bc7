"""Before training: the first batches of a split, looked at for what would end the run later."""

import time
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, in_parts
from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.losses import binary_cross_entropy, loss_of_package
from rotograd_cli.training.batch_checks import check_form, refuse_faults, where
from rotograd_cli.training.batches import complete_batches, evaluation_parts
from rotograd_cli.training.options import TrainOptions
from rotograd_cli.training.selection import Selection
from rotograd_cli.trees import Inputs
from rotograd_cli.user_code import blamed

SCAN_S = 0.2
"""Seconds of the CPU in which more of a split in memory is looked at. What is not looked at is
noticed when it is trained on or evaluated."""
MANY_ONES = 100
"""Ones without a single zero that are no accident in a part of a split."""


def first_batch(
    dataset: MultiTaskDataset,
    split: Split,
    options: TrainOptions,
    selection: Selection,
    example: Inputs,
) -> Batch:
    """Return the first batch; refuse what is wrong in it and in as many others as is cheap.

    Args:
        dataset: The data.
        split: Which split.
        options: Batch sizes and limits.
        selection: Which tasks need a label.
        example: Inputs as the networks take them.

    Raises:
        ConfigError: If the data set fails, a batch has a wrong form or value, or there is no
            example, or no label of a task that needs one.
    """
    place = where(dataset, split)
    unlabelled = set(selection.tasks_needed(split))
    flags = SeenFlags(dataset.tasks)
    is_slow = not dataset.in_memory
    start = time.process_time()
    with blamed("the data set fails", "correct its `num_examples` or `batch`", place):
        parts = _parts(dataset, split, options)
        batches = zip(complete_batches(dataset, split, parts), parts, strict=False)
        for num_read, (batch, part) in enumerate(batches, 1):
            check_form(batch, dataset, example, len(part), place)
            refuse_faults([batch], dataset, split)
            if num_read == 1:
                first = batch
            unlabelled -= _labelled(dataset, split, batch)
            flags.add(batch)
            if not unlabelled and (is_slow or time.process_time() - start > SCAN_S):
                break
    flags.check(dataset, split, is_whole=num_read == len(parts))
    if unlabelled:
        _refuse_unlabelled(dataset, split, selection, unlabelled)
    return first


def _parts(dataset: MultiTaskDataset, split: Split, options: TrainOptions) -> Sequence[Tensor]:
    num = dataset.num_examples(split)
    if num < 1:
        raise ConfigError(
            f"{where(dataset, split)}: at least one example is needed, got {num}; move examples "
            "from another split there."
        )
    if split == "train":
        return in_parts(torch.arange(num), min(num, options.batch_size))
    return evaluation_parts(dataset, split, options)


def _labelled(dataset: MultiTaskDataset, split: Split, batch: Batch) -> set[str]:
    """Return the names of the tasks with a label in a batch."""
    names = set()
    for task in dataset.tasks:
        if task.name in batch.targets:
            place = where(dataset, split, task)
            with blamed("the labels cannot be counted", "correct the target or `count`", place):
                if bool(task.num_labelled(batch.targets[task.name]) > 0):
                    names.add(task.name)
    return names


def _refuse_unlabelled(
    dataset: MultiTaskDataset, split: Split, selection: Selection, unlabelled: set[str]
) -> None:
    first = next(task for task in dataset.tasks if task.name in unlabelled)
    others = [name for name in selection.task_names if name not in unlabelled]
    remedy = f"train with tasks=[{','.join(others)}]" if others else "train with other data"
    if others and split == selection.split:
        choice = f"train.select={split}/{others[0]}/loss"
        remedy = f"select by another task with {choice}, or {remedy}"
    raise ConfigError(
        f"{where(dataset, split, first)}: at least one label is needed to train the task and for "
        f"{selection.key}, got none; {remedy}."
    )


class SeenFlags:
    """Values of the targets of binary tasks: -1 for "no" would be taken for no label."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        binary = (t for t in tasks if loss_of_package(t.loss) is binary_cross_entropy)
        # what reads the targets of declared tasks refuses a -1 that does not mean no label
        self._tasks = [task for task in binary if task.target is None]
        self._counts = {task.name: Counter[float]() for task in self._tasks}

    def add(self, batch: Batch) -> None:
        """Look at a batch."""
        for name in self._counts.keys() & batch.targets.keys():
            values, nums = torch.unique(batch.targets[name], return_counts=True)
            self._counts[name].update(dict(zip(values.tolist(), nums.tolist(), strict=True)))

    def check(self, dataset: MultiTaskDataset, split: str, *, is_whole: bool) -> None:
        """Refuse targets that are -1 or 1 throughout; a part of a split must hold many ones."""
        for task in self._tasks:
            counts = self._counts[task.name]
            if counts.keys() == {-1, 1} and (is_whole or counts[1] >= MANY_ONES):
                raise ConfigError(
                    f"{where(dataset, split, task)}: the target must be 0 or 1, or -1 for no "
                    "label, got -1 and 1 without any 0; if -1 means no, write (target > 0).float()."
                )
