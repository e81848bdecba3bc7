"""What batches and predictions must be like: their form, then their values.

Every refusal is one sentence: data set, split and task, what is needed, what was found, what to
write. Checks of values wait for the device: they are for the time before training, and for the
moment in which something has gone wrong.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset
from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.losses import TargetRule, target_rule
from rotograd_cli.trees import Inputs, shown, tensors

_VOIDS = ("-100", "255")
"""Targets that mean "no label" to torch, and in files of pictures."""


def where(dataset: MultiTaskDataset, split: str, task: Task | None = None) -> str:
    """Return the beginning of every sentence."""
    return f"Data set {dataset.name!r}, split {split}" + (f", task {task.name!r}" if task else "")


def check_form(
    batch: Any, dataset: MultiTaskDataset, example: Inputs, num: int, place: str
) -> Batch:
    """Refuse a batch of a wrong form; values are not looked at.

    Args:
        batch: What the data set returned.
        dataset: Where it comes from.
        example: Inputs that the networks take, first axis 1.
        num: Number of examples that were asked for.
        place: Data set and split (:func:`where`).

    Returns:
        The batch.

    Raises:
        ConfigError: If its inputs or targets have a wrong type, shape, dtype or device.
    """
    _require(
        isinstance(batch, Batch) and isinstance(batch.targets, Mapping),
        f"{place}: `batch` must return a Batch with targets by task, got",
        batch,
        "write Batch(inputs, {task: target}).",
    )
    _check_inputs(batch.inputs, example, f"{place}: inputs", num, sizes_vary=dataset.sizes_vary)
    device = tensors(example)[0].device
    for task in dataset.tasks:
        if task.name in batch.targets:
            thing = f"{place}, task {task.name!r}: the target"
            _check_tensor(batch.targets[task.name], thing, num, device)
    result: Batch = batch
    return result


def _require(holds: bool, requirement: str, value: object, remedy: str) -> None:
    """Refuse a value of a wrong type."""
    if not holds:
        raise ConfigError(f"{requirement} a {type(value).__name__}; {remedy}")


def _check_tensor(value: Any, thing: str, num: int, device: torch.device) -> None:
    remedy = "write torch.as_tensor(...)."
    _require(isinstance(value, Tensor), f"{thing} must be a tensor, got", value, remedy)
    if not value.dim() or len(value) != num:
        raise ConfigError(
            f"{thing} of {num} examples must have a first axis of {num}, got shape "
            f"{list(value.shape)}; return one entry per example, in their order."
        )
    if value.device != device:
        raise ConfigError(
            f"{thing} must be on {device}, got {value.device}; write .to(device) with the device "
            "that the data set was built with."
        )


def _check_inputs(inputs: Any, example: Inputs, thing: str, num: int, *, sizes_vary: bool) -> None:
    """Refuse inputs, and what they consist of, that differ from an example's."""
    if isinstance(example, Tensor):
        _check_tensor(inputs, thing, num, example.device)
        _check_input(inputs, example, thing, sizes_vary=sizes_vary)
        return
    keys: Any = list(example) if isinstance(example, dict) else range(len(example))
    has_keys = type(inputs) is type(example) and len(inputs) == len(example)
    if not has_keys or (isinstance(inputs, dict) and set(inputs) != set(keys)):
        found = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise ConfigError(f"{thing} must be {shown(example)}, as at first, got {found}.")
    for key in keys:
        of_key = f"{thing}[{key!r}]"
        _check_inputs(inputs[key], example[key], of_key, num, sizes_vary=sizes_vary)


def _check_input(inputs: Tensor, example: Tensor, thing: str, *, sizes_vary: bool) -> None:
    num = len(inputs)
    shape = [num, *example.shape[1:]]
    if sizes_vary and inputs.dim() == example.dim():
        shape = list(inputs.shape)
    if list(inputs.shape) != shape:
        raise ConfigError(
            f"{thing} of {num} examples must have shape {shape}, got {list(inputs.shape)}; correct "
            "them or the data set's `input_shape`."
        )
    if inputs.dtype != example.dtype:
        scale = " / 255" if inputs.dtype == torch.uint8 else ""
        raise ConfigError(
            f"{thing} must be {example.dtype}, as the networks are, got {inputs.dtype}; write "
            f"inputs.to({example.dtype}){scale}."
        )


def check_predictions(
    tasks: Sequence[Task], predictions: Sequence[Any], num_examples: int = 1
) -> None:
    """Refuse heads whose output does not fit their task.

    Args:
        tasks: The K tasks.
        predictions: Output of every head.
        num_examples: Number N of examples that they belong to.

    Raises:
        ConfigError: If a prediction is no tensor of shape ``[N, num_outputs, *map_shape]``.
    """
    for task, prediction in zip(tasks, predictions, strict=True):
        head = f"The head of task {task.name!r} must return"
        remedy = f"`head`, or set ++heads.{task.name}.KEY=VALUE for this task."
        _require(
            isinstance(prediction, Tensor),
            f"{head} a tensor, or a tuple that begins with it, got",
            prediction,
            f"check {remedy}",
        )
        shape = [num_examples, task.num_outputs, *task.map_shape]
        if list(prediction.shape) != shape:
            size = "`backbone` (the size of its map), " if task.map_shape else ""
            raise ConfigError(
                f"{head} shape {shape} (N = {num_examples}), got {list(prediction.shape)}; check "
                f"{size}{remedy}"
            )


def refuse_faults(
    batches: Iterable[Batch],
    dataset: MultiTaskDataset,
    split: str,
    suspects: Collection[str] = (),
) -> None:
    """Raise what :func:`find_fault` returns.

    Raises:
        ConfigError: If a value is wrong.
    """
    fault = find_fault(batches, dataset, split, suspects)
    if fault is not None:
        raise ConfigError(fault)


def find_fault(
    batches: Iterable[Batch],
    dataset: MultiTaskDataset,
    split: str,
    suspects: Collection[str] = (),
) -> str | None:
    """Return the first value that the losses of this package cannot take, as a sentence.

    Args:
        batches: Of the right form.
        dataset: The data.
        split: Name of the split.
        suspects: Tasks whose loss is not finite: those with a loss of the user's need a finite
            target too.

    Returns:
        The sentence; None if all values are fine.
    """
    return next((x for batch in batches for x in _faults(batch, dataset, split, suspects)), None)


def _faults(
    batch: Batch, dataset: MultiTaskDataset, split: str, suspects: Collection[str]
) -> Iterator[str]:
    finite = [x.isfinite().reshape(len(x), -1).all(1) for x in tensors(batch.inputs)]
    num = int((~torch.stack(finite).all(0)).sum())
    if num:
        yield (
            f"{where(dataset, split)}: inputs must be finite, got NaN or infinity in {num} of "
            f"{len(batch)} examples; leave those out or fill them, e.g. with "
            "inputs.nan_to_num(0, 0, 0)."
        )
    for task in dataset.tasks:
        if task.name not in batch.targets:
            continue
        target = batch.targets[task.name]
        rule = target_rule(task.loss)
        place = where(dataset, split, task)
        num = int((~target.isfinite()).sum())
        if rule is not None:
            yield from _faults_by_rule(target, task, rule, place)
            yield from _unlabelled(target, task, rule, place)
        elif num and task.name in suspects:
            yield (
                f"{place}: the target is NaN or infinite in {num} of {target.numel()} elements, "
                "which a loss of one's own has to leave out; the losses of rotograd_cli.tasks."
                "losses leave out NaN."
            )


def _unlabelled(target: Tensor, task: Task, rule: TargetRule, place: str) -> Iterator[str]:
    num = int((~rule.labelled(target)).sum())
    if num and getattr(task.loss, "is_of_whole_batch", False):
        yield (
            f"{place}: {num} of {target.numel()} elements have no label, which a loss that returns "
            "one number for the batch cannot leave out; let it return one number per example."
        )


def _faults_by_rule(target: Tensor, task: Task, rule: TargetRule, place: str) -> Iterator[str]:
    wrong = target[rule.wrong(target, task.num_outputs)]
    if not len(wrong):
        return
    last = task.num_outputs - 1
    more = " (the first class is 0), or the task's num_outputs" if last else ""
    remedy = f"correct the labels{more}"
    value = f"{wrong[0].item():g}"
    if task.target is not None and value in _VOIDS:
        remedy = f"if it means no label, set ++data.tasks.{task.name}.ignore_index={value}"
    yield (
        f"{place}: the target must be {rule.needed.format(last=last, void=-1)}, got {value} in "
        f"{len(wrong)} of {target.numel()} elements; {remedy}."
    )
