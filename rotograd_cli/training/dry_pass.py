"""Before training: one batch of each split and every component are used once, on a copy.

What is refused here is refused before anything is written. The run itself is left as it is: its
weights, buffers and random generators are those of a run without this pass.
"""

import copy
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, in_parts
from rotograd_cli.data.stored import StoredDataset
from rotograd_cli.errors import ConfigError, SelectionError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.tasks import Task
from rotograd_cli.training.batch_checks import check_form, where
from rotograd_cli.training.blame import blamed
from rotograd_cli.training.coverage import complete_batches, evaluation_parts
from rotograd_cli.training.faults import SeenFlags, find_fault
from rotograd_cli.training.options import TrainOptions
from rotograd_cli.training.seeding import unchanged_generators
from rotograd_cli.training.selection import Selection, select_by
from rotograd_cli.training.trying import (
    NUM_EXAMPLES,
    MakeGroups,
    few,
    silence,
    try_evaluation,
    try_training,
)

SCAN_S = 0.2
"""Seconds of the CPU in which more of a split in memory is looked at. What is not looked at is
noticed when it is trained on or evaluated."""


def dry_pass(
    model: MultiTaskMethod,
    dataset: MultiTaskDataset,
    make_groups: MakeGroups,
    options: TrainOptions,
) -> None:
    """Try data set, networks, method, optimisers and schedules; say nothing when all is well.

    Args:
        model: The network with its method, on the device; one process's.
        dataset: The data, on the same device.
        make_groups: Makes the optimisers with their schedules for a copy of the model.
        options: The loop's options.

    Raises:
        ConfigError: If something cannot be trained with, cannot be evaluated, or cannot be selected
            by; the line names the component, or data set, split and task.
    """
    evaluated = ("train", "val") if options.evaluate_train else ("val",)
    selection = select_by(options.select, options.select_mode, dataset.tasks, evaluated)
    with unchanged_generators(), silence():
        example = _example(model, dataset)
        splits: tuple[Split, ...] = ("train", "val", "test")
        first = {split: _read(dataset, split, options, selection, example) for split in splits}
        with blamed("The networks cannot be copied", "keep nothing in them that has a graph"):
            trial = copy.deepcopy(model)
        losses = {
            split: try_evaluation(trial, dataset, split, batch) for split, batch in first.items()
        }
        _check_selection(selection, losses[selection.split])
        num = options.batch_size // options.accumulate_steps
        batch = few(first["train"], min(num, NUM_EXAMPLES))
        try_training(trial, dataset, make_groups, options, batch)


def _example(model: MultiTaskMethod, dataset: MultiTaskDataset) -> Tensor:
    """Return an input as the networks take it."""
    real = (p for p in model.model_parameters() if p.is_floating_point())
    like = next(real, torch.zeros(()))
    return like.new_zeros(1, *dataset.input_shape)


def _read(
    dataset: MultiTaskDataset,
    split: Split,
    options: TrainOptions,
    selection: Selection,
    example: Tensor,
) -> Batch:
    """Return the first batch of a split; look at as much of the split as is cheap."""
    parts = _parts(dataset, split, options)
    needed = {selection.split: selection.tasks_needed(), "train": selection.task_names}
    missing = set(needed.get(split, ()))
    flags = SeenFlags(dataset.tasks)
    first: Batch | None = None
    start = time.process_time()
    num_read = 0
    for batch, part in zip(_batches(dataset, split, parts), parts, strict=False):
        _check(batch, dataset, split, example, len(part))
        first = first or batch
        missing -= _labelled(dataset, split, batch)
        flags.add(batch)
        num_read += 1
        is_slow = isinstance(dataset, StoredDataset) or time.process_time() - start > SCAN_S
        if is_slow and not missing:
            break
    flags.check(dataset.name, split, is_whole=num_read == len(parts))
    assert first is not None
    if missing:
        _refuse_unlabelled(dataset, split, selection, missing, first)
    return first


def _parts(dataset: MultiTaskDataset, split: Split, options: TrainOptions) -> Sequence[Tensor]:
    place = where(dataset.name, split)
    with blamed("the data set fails", "correct its `num_examples`", place):
        num = dataset.num_examples(split)
    if num < 1:
        raise ConfigError(
            f"{place}: at least one example is needed, got {num}; move examples from another "
            "split there."
        )
    if split == "train":
        return in_parts(torch.arange(num), min(num, options.batch_size))
    return evaluation_parts(dataset, split, options)


def _batches(dataset: MultiTaskDataset, split: Split, parts: Sequence[Tensor]) -> Iterator[Batch]:
    with blamed("the data set fails", "correct its `batch`", where(dataset.name, split)):
        yield from complete_batches(dataset, split, parts)


def _check(
    batch: Batch, dataset: MultiTaskDataset, split: Split, example: Tensor, num: int
) -> None:
    check_form(batch, dataset.tasks, example, num, where(dataset.name, split))
    fault = find_fault([batch], dataset.tasks, dataset.name, split)
    if fault is not None:
        raise ConfigError(fault)


def _labelled(dataset: MultiTaskDataset, split: Split, batch: Batch) -> set[str]:
    """Return the names of the tasks with a label in a batch."""
    names = set()
    for task in dataset.tasks:
        if task.name in batch.targets:
            place = where(dataset.name, split, task.name)
            with blamed("the labels cannot be counted", "correct the target or `count`", place):
                if bool(task.num_labelled(batch.targets[task.name]) > 0):
                    names.add(task.name)
    return names


def _refuse_unlabelled(
    dataset: MultiTaskDataset, split: Split, selection: Selection, missing: set[str], batch: Batch
) -> None:
    first = next(task for task in dataset.tasks if task.name in missing)
    others = [task for task in dataset.tasks if task.name not in missing]
    names = ",".join(task.name for task in others)
    remedy = f"train with tasks=[{names}]" if others else "train with other data"
    reason = "it is to be trained"
    if split == selection.split:
        reason = f"{selection.key} needs it"
        if others:
            choice = _selection_by(others[0], split)
            remedy = f"select by another task with {choice}, or {remedy}"
    unknown = [str(name) for name in batch.targets if name not in selection.task_names]
    found = f"none (its batches have targets of {', '.join(unknown)} too)" if unknown else "none"
    raise ConfigError(
        f"{where(dataset.name, split, first.name)}: at least one label is needed, as {reason}, got "
        f"{found}; {remedy}."
    )


def _selection_by(task: Task, split: Split) -> str:
    """Return the overrides that select by a task."""
    if not task.metrics:
        return f"train.select={split}/{task.name}/loss"
    metric = task.metrics[0]
    mode = " train.select_mode=max" if metric.better == "higher" else ""
    return f"train.select={split}/{task.name}/{metric.name}{mode}"


def _check_selection(selection: Selection, losses: dict[str, float]) -> None:
    metrics = {f"{selection.split}/{name}/loss": 0.0 for name in selection.task_names}
    metrics |= {f"{selection.split}/{name}/loss": loss for name, loss in losses.items()}
    try:
        selection.check(metrics)
    except SelectionError as error:
        raise ConfigError(str(error)) from error
