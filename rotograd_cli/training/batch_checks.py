"""What a batch and predictions must be like, before their values are looked at.

Every refusal is one sentence: data set, split and task, what is needed, what was found, what to
write.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import Task


def where(dataset: str, split: str, task: str | None = None) -> str:
    """Return the beginning of every sentence."""
    return f"Data set {dataset!r}, split {split}" + (f", task {task!r}" if task else "")


def require(holds: bool, thing: str, requirement: str, found: object, remedy: str) -> None:
    """Refuse a thing unless a requirement holds.

    Args:
        holds: Whether it does.
        thing: Place and name.
        requirement: What follows ``must``.
        found: The value.
        remedy: What to do.

    Raises:
        ConfigError: With all that in one sentence.
    """
    if not holds:
        raise ConfigError(f"{thing} must {requirement}, got {found}; {remedy}.")


def check_form(batch: Any, tasks: Sequence[Task], example: Tensor, num: int, place: str) -> Batch:
    """Refuse a batch of a wrong form; values are not looked at.

    Args:
        batch: What the data set returned.
        tasks: The K tasks.
        example: An input that the networks take, first axis 1.
        num: Number of examples that were asked for.
        place: Data set and split (:func:`where`).

    Returns:
        The batch.

    Raises:
        ConfigError: If its inputs or targets have a wrong type, shape, dtype or device.
    """
    remedy = "write Batch(inputs, {task: target})"
    require(isinstance(batch, Batch), f"{place}: `batch`", "return a Batch", _kind(batch), remedy)
    _check_inputs(batch.inputs, example, num, place)
    remedy = f"write {{{tasks[0].name!r}: target}}"
    is_mapping = isinstance(batch.targets, Mapping)
    require(is_mapping, f"{place}: targets", "be a mapping by task", _kind(batch.targets), remedy)
    for task in tasks:
        if task.name in batch.targets:
            _check_target(batch.targets[task.name], batch.inputs, f"{place}, task {task.name!r}")
    result: Batch = batch
    return result


def _check_inputs(inputs: Any, example: Tensor, num: int, place: str) -> None:
    _check_tensor(inputs, f"{place}: inputs", "inputs")
    shape = [num, *example.shape[1:]]
    require(
        list(inputs.shape) == shape,
        f"{place}: inputs of {num} examples",
        f"have shape {shape}",
        list(inputs.shape),
        "correct them or the data set's `input_shape`",
    )
    scale = " / 255" if inputs.dtype == torch.uint8 else ""
    require(
        inputs.dtype == example.dtype,
        f"{place}: inputs",
        f"be {example.dtype}, as the networks are",
        inputs.dtype,
        f"write inputs.to({example.dtype}){scale}",
    )
    _check_device(inputs, example, f"{place}: inputs")


def _check_target(target: Any, inputs: Tensor, place: str) -> None:
    _check_tensor(target, f"{place}: the target", "target")
    num = len(inputs)
    require(
        target.dim() > 0 and len(target) == num,
        f"{place}: the target of {num} examples",
        f"have a first axis of {num}",
        f"shape {list(target.shape)}",
        "return one entry per example, in their order",
    )
    _check_device(target, inputs, f"{place}: the target")


def _check_tensor(value: object, thing: str, name: str) -> None:
    remedy = f"write torch.as_tensor({name})"
    require(isinstance(value, Tensor), thing, "be a tensor", _kind(value), remedy)


def _check_device(tensor: Tensor, like: Tensor, thing: str) -> None:
    remedy = "write .to(device) with the device that the data set was built with"
    require(tensor.device == like.device, thing, f"be on {like.device}", tensor.device, remedy)


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
        head = f"The head of task {task.name!r}"
        remedy = f"`head` and `heads.{task.name}`"
        require(
            isinstance(prediction, Tensor),
            head,
            "return a tensor, or a tuple that begins with it",
            _kind(prediction),
            f"check {remedy}",
        )
        shape = (task.num_outputs, *task.map_shape)
        size = "`backbone` (the size of its map), " if task.map_shape else ""
        require(
            tuple(prediction.shape) == (num_examples, *shape),
            head,
            f"return shape {_shape('N', *shape)}",
            _shape_for(prediction, num_examples),
            f"check {size}{remedy}",
        )


def _shape_for(prediction: Tensor, num: int) -> str:
    if prediction.dim() > 0 and len(prediction) == num:
        return _shape("N", *prediction.shape[1:])
    return f"{_shape(*prediction.shape)} for N = {num}"


def _shape(*sizes: object) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
