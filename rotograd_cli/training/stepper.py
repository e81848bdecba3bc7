"""One optimiser step: forward pass, task losses, the method, two optimisers."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import NonFiniteError
from rotograd_cli.methods.engine.measurement import Measurement
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rotation.holding import cached
from rotograd_cli.tasks.task import Task
from rotograd_cli.training.averaging import WeightAverage
from rotograd_cli.training.objective import Objective
from rotograd_cli.training.options import TrainOptions
from rotograd_cli.training.run_state import RunState

logger = logging.getLogger(__name__)


@cached()  # micro-batches see the same rotations
def train_step(
    model: MultiTaskMethod,
    tasks: Sequence[Task],
    micro_batches: Sequence[Batch],
    optimizers: Iterable[Optimizer],
    *,
    grad_clip_norm: float | None = None,
    check_finite: bool = False,
    loss_scale: float | None = None,
    measurement: Measurement | None = None,
    average: WeightAverage | None = None,
) -> Tensor:
    """Take one step: forward, task losses, the method's backward pass, every optimiser.

    Args:
        model: The network with its method, in training mode.
        tasks: The K tasks.
        micro_batches: Parts of one batch, of equal size; their gradients add up to the batch's. A
            task's loss is the mean over all their elements with a label. With many ranks
            (``model.ranks``), this rank's rows of them.
        optimizers: Stepped in order, the network's first, then cleared.
        grad_clip_norm: Largest norm of the network's gradient; None leaves it.
        check_finite: Look at losses and gradients before anything is updated, which waits for the
            device.
        loss_scale: What losses are multiplied by and gradients divided by, a power of two.
        measurement: Takes what is recorded of the gradients; changes nothing else.
        average: Follows the weights.

    Returns:
        Task losses of the batch (0 where there is none) and whether each was there (1 or 0),
        detached, shape ``[2, K]``.

    Raises:
        NonFiniteError: With ``check_finite``, if a loss or a gradient is infinite or NaN; no
            parameter has changed, and all gradients are cleared.
    """
    optimizers = list(optimizers)
    objective = Objective(model, tasks, micro_batches)
    if measurement is not None:
        measurement.clear()  # of an attempt that overflowed
    if objective.is_empty:  # nothing to learn: no step, not even of a momentum or an average
        return torch.zeros(2, len(tasks), device=next(model.parameters()).device)
    total = _backward(model, objective, loss_scale, measurement)
    if check_finite:
        _check_finite(model, tasks, total[0], optimizers)
    if grad_clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.model_parameters(), grad_clip_norm)
    for index, optimizer in enumerate(optimizers):
        optimizer.step()
        optimizer.zero_grad()
        if index == 0 and model.needs_losses_after_update:
            model.observe_update(total[0], objective.measure(), total[1] > 0)
    if average is not None:
        average.update(model)
    return total


def _backward(
    model: MultiTaskMethod,
    objective: Objective,
    loss_scale: float | None,
    measurement: Measurement | None,
) -> Tensor:
    """Add up the gradients of all micro-batches; return what :meth:`Objective.total` does."""
    num = len(objective.micro_batches)
    values = []
    for index in range(num):
        is_last = index == num - 1
        with model.ranks.accumulating(not is_last):
            losses = objective.parts(index)
            if loss_scale is not None:
                losses = [None if loss is None else loss * loss_scale for loss in losses]
            value = model.backward(
                losses,
                labelled=objective.labelled_in(index),
                loss_scale=loss_scale,
                num_micro_batches=num,
                accumulating=not is_last,
                one_head_per_loss=True,  # a task's loss takes its own prediction
                measurement=measurement,
            )
        values.append(value)
    total = objective.total(values)
    if loss_scale is not None:
        total[0] /= loss_scale
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, loss_scale)
    return total


def _check_finite(
    model: MultiTaskMethod, tasks: Sequence[Task], losses: Tensor, optimizers: Sequence[Optimizer]
) -> None:
    """Refuse losses and gradients that are not finite; one read from the device if all are."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    trained = (p for group in groups for p in group["params"])  # sooner than a walk over modules
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    *values, norm_value = torch.cat((losses, norm.reshape(1).to(losses))).tolist()
    if all(map(math.isfinite, (*values, norm_value))):
        return
    by_task = {task.name: value for task, value in zip(tasks, values, strict=True)}
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    reason = next(_reasons(by_task, gradients))
    for optimizer in optimizers:
        optimizer.zero_grad()
    raise NonFiniteError(reason, losses=by_task)


def _reasons(losses: Mapping[str, float], gradients: Mapping[str, Tensor]) -> Iterator[str]:
    for task, value in losses.items():
        if not math.isfinite(value):
            yield f"The loss of task {task!r} became {value}"
    for name, gradient in gradients.items():
        if not gradient.isfinite().all():
            yield f"The gradient of {name} became infinite or NaN"
    norms = {name: float(torch.linalg.vector_norm(g.double())) for name, g in gradients.items()}
    name = max(norms, key=norms.__getitem__)
    yield f"The norm of the gradient, largest in {name} ({norms[name]:.3g}), overflowed"


@dataclass
class Stepper:
    """Takes the steps of a run: with its loss scale, and its policy for one that is not finite.

    Args:
        run: What is trained.
        tasks: Its K tasks.
        options: Largest gradient norm; policy.
        check_finite: Look at losses and gradients in every step, even where that is neither free
            (on a CPU) nor needed (``skip``, a loss scale): on an accelerator a look waits.
    """

    run: RunState
    tasks: Sequence[Task]
    options: TrainOptions
    check_finite: bool = False

    def __post_init__(self) -> None:
        self._skips = self.options.on_nonfinite == "skip"
        is_free = self.run.device.type == "cpu"
        self.check_finite |= self._skips or is_free or self.run.loss_scale is not None

    def take(self, micro_batches: Sequence[Batch], measurement: Measurement | None = None) -> None:
        """Take the next step of the run and note its losses.

        A skipped step leaves everything but the method's counters alone, running statistics too.

        Args:
            micro_batches: Those of the step.
            measurement: Takes what is recorded of the gradients; nothing of a skipped step.

        Raises:
            NonFiniteError: If it is not finite and may not be skipped.
        """
        buffers = _buffers_of_network(self.run.model) if self._skips else {}
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        try:
            losses = self.attempt(micro_batches, measurement)
        except NonFiniteError as error:
            self._skip_or_raise(error)
            if measurement is not None:
                measurement.clear()
            for name, value in before.items():  # a buffer that the step itself made is left
                self.run.model.get_buffer(name).copy_(value)
        else:
            self.run.window += losses

    def attempt(
        self, micro_batches: Sequence[Batch], measurement: Measurement | None = None
    ) -> Tensor:
        """Take a step as :func:`train_step` does, with the run's options; count nothing."""

        def step(loss_scale: float | None = None) -> Tensor:
            return train_step(
                self.run.model,
                self.tasks,
                micro_batches,
                [group.optimizer for group in self.run.groups],
                grad_clip_norm=self.options.grad_clip_norm,
                check_finite=self.check_finite,
                loss_scale=loss_scale,
                measurement=measurement,
                average=self.run.average,
            )

        scale = self.run.loss_scale
        return step() if scale is None else scale.take(self.run.model, step)

    def _skip_or_raise(self, error: NonFiniteError) -> None:
        state = self.run.state
        step = state.step + 1
        if self._skips and state.skipped_steps < self.options.max_skipped_steps:
            state.skipped_steps += 1
            logger.warning("%s in step %d, which is skipped.", error, step)
            return
        already = f" after {state.skipped_steps} skipped steps" if self._skips else ""
        raise NonFiniteError(f"{error} in step {step}{already}", losses=error.losses) from error


def _buffers_of_network(model: MultiTaskMethod) -> dict[str, Tensor]:
    """Return the buffers of backbone and heads, which forward passes change, by name."""
    prefixes = ("backbone.", "heads.")
    return {name: b for name, b in model.named_buffers() if name.startswith(prefixes)}
