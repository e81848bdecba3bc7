"""Where infinity or NaN arises in a step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rotograd_cli.data.base import Batch
from rotograd_cli.methods.base import MultiTaskMethod
from rotograd_cli.tasks import Task
from rotograd_cli.training.step import predict, task_losses


@dataclass
class Origin:
    """What was found in one step, in the order in which it happens."""

    before: list[str] = field(default_factory=list)
    """Inputs, targets, parameters and buffers that are not finite before the step."""
    output: str | None = None
    """The first module of the forward pass whose output is not finite."""
    gradient_norms: dict[str, float] = field(default_factory=dict)
    """By task: norm of its loss's gradient with respect to the features, over the whole batch. NaN
    for a task without a target."""
    gradient: str | None = None
    """The first parameter of the backward pass whose gradient is not finite."""


def find_origin(
    model: MultiTaskMethod, tasks: Sequence[Task], micro_batches: Sequence[Batch]
) -> Origin:
    """Takes a step apart; nothing is updated but the method's counters and running statistics.

    Modules are watched through hooks, which make methods leave their shortcuts: numbers may differ
    from those of the step by rounding.

    Args:
        model: The network as it was before the step.
        tasks: The K tasks.
        micro_batches: Those of the step.

    Returns:
        What was found.
    """
    origin = Origin(before=_not_finite(model, micro_batches))
    counts = {t.name: sum(t.name in b.targets for b in micro_batches) for t in tasks}
    squares = {task.name: 0.0 for task in tasks if counts[task.name]}
    num = len(micro_batches)
    model.train()
    with _watched(model, origin):
        for index, batch in enumerate(micro_batches):
            losses = [
                loss if loss is None else loss / counts[task.name]
                for task, loss in zip(
                    tasks, task_losses(tasks, predict(model, batch), batch), strict=True
                )
            ]
            for task, loss in zip(tasks, losses, strict=True):
                if loss is not None:
                    squares[task.name] += _squared_norm(loss, model.leaves)
            model.backward(
                losses,
                num_micro_batches=num,
                accumulating=index < num - 1,
                one_head_per_loss=True,
            )
    for name, parameter in model.named_parameters():  # those that autograd does not set
        if origin.gradient is None and not _is_finite(parameter.grad):
            origin.gradient = name
    model.zero_grad()
    origin.gradient_norms = {t.name: squares.get(t.name, float("nan")) ** 0.5 for t in tasks}
    return origin


def _squared_norm(loss: Tensor, leaves: Sequence[Tensor]) -> float:
    found = torch.autograd.grad(loss, list(leaves), retain_graph=True, allow_unused=True)
    return sum(float(g.double().square().sum()) for g in found if g is not None)


def _is_finite(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, Tensor) or bool(value.isfinite().all())


def _not_finite(model: nn.Module, micro_batches: Sequence[Batch]) -> list[str]:
    values: list[tuple[str, Tensor]] = []
    for index, batch in enumerate(micro_batches):
        where = f" of micro-batch {index}" if len(micro_batches) > 1 else ""
        values.append((f"the inputs{where}", batch.inputs))
        values += [(f"the targets of {k!r}{where}", v) for k, v in batch.targets.items()]
    values += list(model.named_parameters())
    return [f"{name} ({describe(value)})" for name, value in values if not _is_finite(value)]


def describe(value: Tensor) -> str:
    """Shape, and how many of its elements are infinite and NaN.

    Args:
        value: Any tensor.

    Returns:
        For instance ``[8, 16], 128 elements: 12 infinite, 116 NaN``.
    """
    infinite, nan = int(value.isinf().sum()), int(value.isnan().sum())
    return f"{list(value.shape)}, {value.numel()} elements: {infinite} infinite, {nan} NaN"


@contextmanager
def _watched(model: nn.Module, origin: Origin) -> Iterator[None]:
    """Inside, the first output and the first gradient that are not finite are noted."""
    handles: list[Any] = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_hook(_output_hook(name, origin)))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hook = _gradient_hook(name, origin)
            handles.append(
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _output_hook(name: str, origin: Origin) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        del inputs
        if origin.output is None and not _is_finite(output):
            first = output[0] if isinstance(output, (list, tuple)) else output
            what = describe(first) if isinstance(first, Tensor) else "several outputs"
            origin.output = f"{name} ({type(module).__name__}), output {what}"

    return hook


def _gradient_hook(name: str, origin: Origin) -> Any:
    def hook(parameter: Tensor) -> None:
        if origin.gradient is None and not _is_finite(parameter.grad):
            origin.gradient = name

    return hook


def same_numbers(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    """Whether two sets of named numbers are the same, NaN equal to itself.

    Args:
        first: Numbers by name.
        second: Others.

    Returns:
        The answer; names count, their order does not.
    """
    return first.keys() == second.keys() and all(
        repr(float(value)) == repr(float(second[name])) for name, value in first.items()
    )
