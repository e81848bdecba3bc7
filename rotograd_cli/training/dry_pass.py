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
from rotograd_cli.methods.base import MultiTaskMethod
from rotograd_cli.training.batch_checks import SeenFlags, check_form, find_fault, where
from rotograd_cli.training.blame import blamed
from rotograd_cli.training.coverage import evaluation_parts
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
    """Tries data set, networks, method, optimisers and schedules; says nothing when all is well.

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
    """An input as the networks take it."""
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
    """The first batch of a split; the split has been looked at as far as that is cheap."""
    place = where(dataset.name, split)
    with blamed(f"{place}: the data set fails", "correct its `num_examples`"):
        num = dataset.num_examples(split)
    if num < 1:
        raise ConfigError(
            f"{place}: at least one example is needed, got {num}; move examples from another "
            "split there."
        )
    parts = evaluation_parts(dataset, split, options)
    if split == "train":
        parts = in_parts(torch.arange(num), min(num, options.batch_size))
    needed = {selection.split: selection.tasks_needed(), "train": selection.task_names}
    missing = set(needed.get(split, ()))
    result: Batch | None = None
    seen = SeenFlags(dataset.tasks)
    start = time.process_time()
    batches = _batches(dataset, split, parts)
    num_read = 0
    for num_batches, part in enumerate(parts):
        batch = next(batches, None)
        if batch is None:
            raise ConfigError(
                f"{place}: `batches` must yield a batch for each of the {len(parts)} parts, got "
                f"{num_batches}; yield the last, smaller one too (drop_last=False)."
            )
        num_read += len(part)
        checked = check_form(batch, dataset.tasks, example, len(part), place)
        fault = find_fault([checked], dataset.tasks, dataset.name, split)
        if fault is not None:
            raise ConfigError(fault)
        missing -= _labelled(dataset, split, checked)
        seen.add(checked)
        result = result or checked
        enough = isinstance(dataset, StoredDataset) or time.process_time() - start > SCAN_S
        if enough and not missing:
            break
    seen.check(dataset.name, split, is_whole=num_read == sum(map(len, parts)))
    assert result is not None
    if missing:
        unknown = [str(name) for name in result.targets if name not in selection.task_names]
        _refuse_unlabelled(dataset, split, selection, missing, unknown)
    return result


def _batches(dataset: MultiTaskDataset, split: Split, parts: Sequence[Tensor]) -> Iterator[Batch]:
    with blamed(f"{where(dataset.name, split)}: the data set fails", "correct its `batch`"):
        yield from dataset.batches(split, parts)


def _labelled(dataset: MultiTaskDataset, split: Split, batch: Batch) -> set[str]:
    """Names of the tasks with a label in a batch."""
    names = set()
    for task in dataset.tasks:
        if task.name in batch.targets:
            place = where(dataset.name, split, task.name)
            with blamed(f"{place}: the labels cannot be counted", "correct the target or `count`"):
                if bool(task.num_labelled(batch.targets[task.name]) > 0):
                    names.add(task.name)
    return names


def _refuse_unlabelled(
    dataset: MultiTaskDataset,
    split: Split,
    selection: Selection,
    missing: set[str],
    unknown: Sequence[str],
) -> None:
    names = [task.name for task in dataset.tasks]
    first = next(name for name in names if name in missing)
    others = [name for name in names if name not in missing]
    without = f"tasks=[{','.join(others)}]" if others else "other data"
    remedy = f"train with {without}"
    if split == selection.split and others:
        task = next(task for task in dataset.tasks if task.name == others[0])
        last = task.metrics[0].name if task.metrics else "loss"
        higher = task.metrics and task.metrics[0].better == "higher"
        mode = " train.select_mode=max" if higher else ""
        remedy = f"select by another task with train.select={split}/{others[0]}/{last}{mode}, or "
        remedy += f"train with {without}"
    reason = f"{selection.key} needs it" if split == selection.split else "it is to be trained"
    found = f"none (its batches have targets of {', '.join(unknown)} too)" if unknown else "none"
    raise ConfigError(
        f"{where(dataset.name, split, first)}: at least one label is needed, as {reason}, got "
        f"{found}; {remedy}."
    )


def _check_selection(selection: Selection, losses: dict[str, float]) -> None:
    metrics = {f"{selection.split}/{name}/loss": 0.0 for name in selection.task_names}
    metrics |= {f"{selection.split}/{name}/loss": loss for name, loss in losses.items()}
    try:
        selection.check(metrics)
    except SelectionError as error:
        raise ConfigError(str(error)) from error
