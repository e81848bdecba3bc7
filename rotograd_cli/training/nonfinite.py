"""Why a step is not finite: a fault of its data, or the first place in the step to show it.

:func:`find_origin` is ``debug=nonfinite``: from a checkpoint to the step, and where that began.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import NonFiniteError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.ranks.base import ONE
from rotograd_cli.training.batch_checks import find_fault
from rotograd_cli.training.batches import EpochBatches
from rotograd_cli.training.objective import predict
from rotograd_cli.training.options import NONFINITE_REMEDY, TrainOptions
from rotograd_cli.training.precision import Snapshot
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.stepper import Stepper

_LOSS_REMEDY = f"clamp what your loss divides by or takes a log or root of, or {NONFINITE_REMEDY}"
_RULE_REMEDY = (
    "in a rule of your own, divide by norms and losses (0 for an absent task) with "
    "rotograd_cli.linalg.gradients.divide_or_zero; or lower method_optimizer.lr"
)
_RULE_RESULTS = {"factors": "weights", "weights": "weights", "combine": "combination"}
_NOWHERE = "All outputs of modules are finite, and all gradients that autograd sets."


def explain(
    error: NonFiniteError, run: RunState, batches: EpochBatches, micro_batches: Sequence[Batch]
) -> str:
    """Return the end of the line on a step that is not finite.

    Args:
        error: How the step failed.
        run: The run before that step.
        batches: Those of the run.
        micro_batches: This rank's of the step.

    Returns:
        A fault of the data; or where it began, as far as a forward pass tells, and a remedy.
    """
    fault = fault_of_data(error, run, batches, micro_batches)
    if fault is not None:
        return f". {fault}"
    with torch.no_grad(), watched(run.model) as (outputs, gradients):
        for batch in micro_batches:
            predict(run.model, batch)
    run.model.forget()
    place = _first_place(error, run, outputs, gradients)
    return f"; {NONFINITE_REMEDY}." if place is None else f", first in the {place}."


def fault_of_data(
    error: NonFiniteError, run: RunState, batches: EpochBatches, micro_batches: Sequence[Batch]
) -> str | None:
    """Return the first value that no loss can take, in the rows of all ranks; None without."""
    if run.ranks.size > 1:
        whole = replace(batches, ranks=ONE)
        micro_batches = next(whole.steps(run.state.epoch, run.state.batch))
    return find_fault(micro_batches, batches.dataset, "train", _not_finite(error))


def wrong_parameter(model: nn.Module) -> str | None:
    """Return the first parameter that is not finite, or buffer with a NaN, described; or None.

    A buffer may be infinite: a mask that is added to logits is.
    """
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter):
            return f"parameter {name}, {_describe(parameter)}"
    for name, buffer in model.named_buffers():
        if buffer.isnan().any():
            return f"buffer {name}, {_describe(buffer)}"
    return None


def _first_place(
    error: NonFiniteError, run: RunState, outputs: Sequence[str], gradients: Sequence[str]
) -> str | None:
    """Return where in the step an infinite or NaN value began, and what to try; or None."""
    if outputs:
        return outputs[0]
    losses = _not_finite(error)
    if losses:
        place = (
            f"loss of task {losses[0]!r}: its predictions and targets are finite; {_LOSS_REMEDY}"
        )
        return place if run.ranks.size == 1 else None  # the prediction may be another rank's
    return gradients[0] if gradients else None


def _not_finite(error: NonFiniteError) -> list[str]:
    """Return the tasks whose loss is not finite."""
    return [name for name, loss in error.losses.items() if not math.isfinite(loss)]


@contextmanager
def watched(model: MultiTaskMethod) -> Iterator[tuple[list[str], list[str]]]:
    """Inside, values that are not finite are noted.

    Hooks make methods leave their shortcuts, so numbers may differ by rounding.

    Args:
        model: The network.

    Yields:
        Outputs of modules; gradients, and what the rule gives. Each list is in the order of the
        step, with a remedy: ``output of heads.1 (Linear), [8, 3] with 0 infinite, 2 NaN; ...``.
    """
    outputs: list[str] = []
    gradients: list[str] = []

    def watch_output(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        for value in output if isinstance(output, (list, tuple)) else [output]:
            if isinstance(value, Tensor) and not _is_finite(value):
                kind = type(module).__name__
                place = f"output of {name} ({kind}), {_describe(value)}"
                outputs.append(f"{place}; {NONFINITE_REMEDY}")

    def watch_gradient(name: str, parameter: Tensor) -> None:
        if parameter.grad is not None and not _is_finite(parameter.grad):
            place = f"gradient of {name}, {_describe(parameter.grad)}"
            gradients.append(f"{place}; {NONFINITE_REMEDY}")

    def watch_rule(compute: Callable[..., Tensor | None], result: str, *args: Any) -> Tensor | None:
        value = compute(*args)
        if value is not None and not _is_finite(value):
            gradients.append(f"{result} of method {model.method_name}; {_RULE_REMEDY}")
        return value

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                hook = module.register_forward_hook(partial(watch_output, name))
                stack.callback(hook.remove)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                register: Any = parameter.register_post_accumulate_grad_hook
                stack.callback(register(partial(watch_gradient, name)).remove)
        for name, result in _RULE_RESULTS.items():
            compute = getattr(model.rule, name, None)
            if compute is not None:
                setattr(model.rule, name, partial(watch_rule, compute, result))
                stack.callback(delattr, model.rule, name)
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # hooks run in it
        yield outputs, gradients


def _is_finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


def _describe(value: Tensor) -> str:
    """Return the shape, and how many elements are infinite and NaN."""
    infinite = int(value.isinf().sum())
    nan = int(value.isnan().sum())
    return f"{list(value.shape)} with {infinite} infinite, {nan} NaN"


def find_origin(
    run: RunState, batches: EpochBatches, options: TrainOptions, *, last_step: int
) -> str | None:
    """Train on until a step is not finite; nothing is evaluated, recorded or saved.

    Args:
        run: The run as a checkpoint has it; trained here.
        batches: Those of the run.
        options: Those of the run; steps that it would skip are not.
        last_step: Step (from 1) to end with.

    Returns:
        Task, step, and where in the step it began; None if all steps are finite.
    """
    stepper = Stepper(run, batches.dataset.tasks, options, check_finite=True)
    origin = wrong_parameter(run.model)
    if origin is not None:
        return f"Before step {run.state.step + 1}: the checkpoint has the {origin}."
    while run.state.step < last_step:
        run.begin_epoch()
        for micro_batches in batches.steps(run.state.epoch, run.state.batch):
            origin = _try_step(run, batches, stepper, micro_batches)
            if origin is not None or run.state.step == last_step:
                return origin
        run.end_epoch()
    return None


def _try_step(
    run: RunState, batches: EpochBatches, stepper: Stepper, micro_batches: Sequence[Batch]
) -> str | None:
    step = run.state.step + 1
    before = Snapshot(run.model)
    try:
        stepper.attempt(micro_batches)
    except NonFiniteError as error:
        before.restore()
        fault = fault_of_data(error, run, batches, micro_batches)
        with watched(run.model) as (outputs, gradients), suppress(NonFiniteError):
            stepper.attempt(micro_batches)
        place = _first_place(error, run, outputs, gradients)
        began = _NOWHERE if place is None else f"It began in the {place}."
        return f"{error} in step {step}. {fault or began}"
    origin = wrong_parameter(run.model)
    if origin is not None:
        return f"The update of step {step} is not finite: {origin}."
    run.model.refresh()
    run.end_step()
    return None
