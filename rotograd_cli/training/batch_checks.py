"""What a batch must be like, and which of its values no training can use.

Every fault is one sentence: data set, split and task, what is needed, what was found, what to
write. The checks read values, so they wait for the device: they are for the time before training,
and for the moment in which something has gone wrong.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.losses import binary_cross_entropy, target_rule


def where(dataset: str, split: str, task: str | None = None) -> str:
    """The beginning of every sentence."""
    return f"Data set {dataset!r}, split {split}" + (f", task {task!r}" if task else "")


def check_form(
    batch: object, tasks: Sequence[Task], example: Tensor, num: int, place: str
) -> Batch:
    """Refuses a batch of a wrong form; values are not looked at.

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
    if not isinstance(batch, Batch):
        raise ConfigError(
            f"{place}: `batch` must return a Batch, got {_kind(batch)}; write Batch(inputs, "
            "{task: target})."
        )
    _check_inputs(batch.inputs, example, num, place)
    if not isinstance(batch.targets, Mapping):
        raise ConfigError(
            f"{place}: targets must be a mapping by task, got {_kind(batch.targets)}; write "
            f"{{{tasks[0].name!r}: target}}."
        )
    for task in tasks:
        if task.name in batch.targets:
            _check_target(batch.targets[task.name], batch.inputs, f"{place}, task {task.name!r}")
    return batch


def _check_inputs(inputs: object, example: Tensor, num: int, place: str) -> None:
    if not isinstance(inputs, Tensor):
        raise ConfigError(
            f"{place}: inputs must be a tensor, got {_kind(inputs)}; write torch.as_tensor(inputs)."
        )
    needed = [num, *example.shape[1:]]
    if list(inputs.shape) != needed:
        raise ConfigError(
            f"{place}: inputs of {num} examples must have shape {needed}, got "
            f"{list(inputs.shape)}; correct them or the data set's `input_shape`."
        )
    if inputs.dtype != example.dtype:
        name = str(example.dtype)
        scale = " / 255" if inputs.dtype == torch.uint8 else ""
        raise ConfigError(
            f"{place}: inputs must be {name}, as the networks are, got {inputs.dtype}; write "
            f"inputs.to({name}){scale}."
        )
    _check_device(inputs, example, f"{place}: inputs")


def _check_target(target: object, inputs: Tensor, place: str) -> None:
    if not isinstance(target, Tensor):
        raise ConfigError(
            f"{place}: the target must be a tensor, got {_kind(target)}; write "
            "torch.as_tensor(target)."
        )
    if target.dim() == 0 or len(target) != len(inputs):
        raise ConfigError(
            f"{place}: the target of {len(inputs)} examples must have a first axis of "
            f"{len(inputs)}, got shape {list(target.shape)}; return one entry per example, in "
            "their order."
        )
    _check_device(target, inputs, f"{place}: the target")


def _check_device(tensor: Tensor, like: Tensor, what: str) -> None:
    if tensor.device != like.device:
        raise ConfigError(
            f"{what} must be on {like.device}, got {tensor.device}; write .to(device) with the "
            "device that the data set was built with."
        )


def check_predictions(
    tasks: Sequence[Task], predictions: Sequence[Tensor], num_examples: int = 1
) -> None:
    """Refuses heads whose output does not fit their task.

    Args:
        tasks: The K tasks.
        predictions: Output of every head.
        num_examples: Number N of examples that they belong to.

    Raises:
        ConfigError: If a prediction is no tensor of shape ``[N, num_outputs, *map_shape]``.
    """
    for task, prediction in zip(tasks, predictions, strict=True):
        needed = (task.num_outputs, *task.map_shape)
        if not isinstance(prediction, Tensor):
            raise ConfigError(
                f"The head of task {task.name!r} must return a tensor, or a tuple that begins with "
                f"it, got a {type(prediction).__name__}; check `head` and `heads.{task.name}`."
            )
        if tuple(prediction.shape) != (num_examples, *needed):
            needed_text = ", ".join(map(str, ("N", *needed)))
            fits = prediction.dim() > 0 and len(prediction) == num_examples
            shape = ("N", *prediction.shape[1:]) if fits else tuple(prediction.shape)
            found = f"[{', '.join(map(str, shape))}]" + ("" if fits else f" for N = {num_examples}")
            size = "`backbone` (the size of its map), " if task.map_shape else ""
            raise ConfigError(
                f"The head of task {task.name!r} must return shape [{needed_text}], got {found}; "
                f"check {size}`head` and `heads.{task.name}`."
            )


def find_fault(
    batches: Iterable[Batch],
    tasks: Sequence[Task],
    dataset: str,
    split: str,
    suspects: Collection[str] = (),
) -> str | None:
    """The first value that the losses of this package cannot take, as a sentence.

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
    for batch in batches:
        fault = _fault_of_inputs(batch.inputs, where(dataset, split))
        if fault is not None:
            return fault
        for task in tasks:
            if task.name in batch.targets:
                place = where(dataset, split, task.name)
                target = batch.targets[task.name]
                fault = _fault_of_target(target, task, place)
                if task.name in suspects and target_rule(task.loss) is None:
                    fault = _fault_for_own_loss(target, place)
                if fault is not None:
                    return fault
    return None


def _fault_of_inputs(inputs: Tensor, place: str) -> str | None:
    wrong = ~inputs.isfinite().flatten(1).all(1)
    num = int(wrong.sum())
    if not num:
        return None
    return (
        f"{place}: inputs must be finite, got NaN or infinity in {num} of {len(inputs)} examples; "
        "leave those out or fill them, e.g. with inputs.nan_to_num(0, 0, 0)."
    )


def _fault_of_target(target: Tensor, task: Task, place: str) -> str | None:
    rule = target_rule(task.loss)
    if rule is None:
        return None
    wrong = rule.wrong(target, task.num_outputs)
    num = int(wrong.sum())
    if not num:
        return None
    last = task.num_outputs - 1
    needed = rule.needed.format(last=last, void=-1)
    found = target[wrong]
    is_whole = not target.is_floating_point()  # NaN and infinity are no integers
    if last and is_whole and int(found.max()) == last + 1 and int(target.min()) == 1:
        remedy = "write target - 1"
    else:
        remedy = "correct the labels" + (", or the task's num_outputs" if last else "")
    return (
        f"{place}: the target must be {needed}, got {found[0].item():g} in {num} of "
        f"{target.numel()} elements; {remedy}."
    )


def _fault_for_own_loss(target: Tensor, place: str) -> str | None:
    num = int((~target.isfinite()).sum())
    if not num:
        return None
    return (
        f"{place}: the target is NaN or infinite in {num} of {target.numel()} elements, which a "
        "loss of one's own has to leave out; the losses of rotograd_cli.tasks.losses leave out NaN."
    )


MANY_ONES = 100
"""Ones without a single zero that are no accident in a part of a split."""


class SeenFlags:
    """Values of the targets of binary tasks: -1 for "no" would be taken for no label.

    Args:
        tasks: The K tasks.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        binary = [task for task in tasks if task.loss is binary_cross_entropy]
        self.values: dict[str, set[float]] = {task.name: set() for task in binary}
        self.num_ones = dict.fromkeys(self.values, 0)

    def add(self, batch: Batch) -> None:
        """Looks at a batch."""
        for name, values in self.values.items():
            if name in batch.targets:
                target = batch.targets[name]
                values.update(torch.unique(target).tolist())
                self.num_ones[name] += int((target == 1).sum())

    def check(self, dataset: str, split: str, *, is_whole: bool) -> None:
        """Refuse targets without any 0.

        Args:
            dataset: Name of the data set.
            split: Name of the split.
            is_whole: Whether the whole split was looked at; a part must hold many ones.

        Raises:
            ConfigError: If a target is -1 or 1 throughout.
        """
        for name, values in self.values.items():
            if values == {-1, 1} and (is_whole or self.num_ones[name] >= MANY_ONES):
                raise ConfigError(
                    f"{where(dataset, split, name)}: the target must be 0 or 1, or -1 for no "
                    "label, got -1 and 1 without any 0; if -1 means no, write (target > 0).float()."
                )


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
