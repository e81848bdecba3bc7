"""One optimiser step and one evaluation."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.optim import Optimizer

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError, NonFiniteError, ShapeError
from rotograd_cli.methods.base import MultiTaskMethod
from rotograd_cli.tasks.metrics import MetricSpec, geometric_mean
from rotograd_cli.tasks.task import Task, task_statistics
from rotograd_cli.training.gathering import SharedSums

logger = logging.getLogger(__name__)
_HALF = (torch.float16, torch.bfloat16)


def train_step(
    model: MultiTaskMethod,
    tasks: Sequence[Task],
    micro_batches: Sequence[Batch],
    optimizers: Iterable[Optimizer],
    *,
    grad_clip_norm: float | None = None,
    check_finite: bool = False,
    loss_scale: float | None = None,
) -> Tensor:
    """Forward, task losses, the method's backward pass, one step of every optimiser.

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

    Returns:
        Task losses of the batch (0 where there is none) and whether each was there (1 or 0),
        detached, shape ``[2, K]``.

    Raises:
        NonFiniteError: With ``check_finite``, if a loss or a gradient is infinite or NaN; no
            parameter has changed, and all gradients are cleared.
    """
    optimizers = list(optimizers)
    num = len(micro_batches)
    present = _presence(model, tasks, micro_batches)
    shares = _shares(model, tasks, micro_batches)
    totals = []
    for index, batch in enumerate(micro_batches):
        with model.ranks.accumulating(index < num - 1):
            losses = _batch_losses(model, tasks, batch, present[index], shares[index])
            values = model.backward(
                _scaled(losses, loss_scale),
                loss_scale=loss_scale,
                num_micro_batches=num,
                accumulating=index < num - 1,
                one_head_per_loss=True,  # a task's loss takes its own prediction
            )
        totals.append(_detached(values, losses))
    total = _total(totals)
    if loss_scale is not None:
        total[0] /= loss_scale
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, loss_scale)
    if check_finite:
        _check_finite(model, tasks, total[0], optimizers)
    if grad_clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.model_parameters(), grad_clip_norm)
    for index, optimizer in enumerate(optimizers):
        optimizer.step()
        optimizer.zero_grad()
        if index == 0 and model.needs_losses_after_update:
            after = _losses_without_gradients(model, tasks, micro_batches, present, shares)
            model.observe_update(total[0], after[0], total[1] > 0)
    return total


def _scaled(losses: Sequence[Tensor | None], scale: float | None) -> Sequence[Tensor | None]:
    if scale is None:
        return losses
    return [None if loss is None else loss * scale for loss in losses]


def _check_finite(
    model: MultiTaskMethod, tasks: Sequence[Task], losses: Tensor, optimizers: Sequence[Optimizer]
) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    *values, norm_value = torch.cat((losses, norm.reshape(1).to(losses))).tolist()
    if all(math.isfinite(value) for value in (*values, norm_value)):
        return
    what = [
        f"The loss of task {task.name!r} became {value}"
        for task, value in zip(tasks, values, strict=True)
        if not math.isfinite(value)
    ]
    named = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
    what += [
        f"The gradient of {n} became infinite or NaN" for n, g in named if not g.isfinite().all()
    ]
    norms = torch.stack([torch.linalg.vector_norm(g.double()) for _, g in named]).tolist()
    for optimizer in optimizers:
        optimizer.zero_grad()
    raise NonFiniteError(
        what[0] if what else "The norm of the gradient overflowed",
        losses=dict(zip([task.name for task in tasks], values, strict=True)),
        gradients=dict(zip([n for n, _ in named], norms, strict=True)),
    )


@torch.no_grad()
def _losses_without_gradients(
    model: MultiTaskMethod,
    tasks: Sequence[Task],
    micro_batches: Sequence[Batch],
    present: Sequence[Sequence[bool]],
    shares: Sequence[Tensor | None],
) -> Tensor:
    """Losses of a batch as :func:`train_step` returns them, for the model as it is now.

    Neither random numbers are used up nor buffers (running statistics) changed.
    """
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    device = next(model.parameters()).device
    totals = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for index, batch in enumerate(micro_batches):
            losses = _batch_losses(model, tasks, batch, present[index], shares[index])
            like = next(loss for loss in losses if loss is not None)
            values = [torch.zeros_like(like) if loss is None else loss for loss in losses]
            totals.append(_detached(model.ranks.sum(torch.stack(values)), losses))
    model.forget()
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)
    return _total(totals)


def _presence(
    model: MultiTaskMethod, tasks: Sequence[Task], micro_batches: Sequence[Batch]
) -> list[list[bool]]:
    """Tasks that have a target in each micro-batch, on any rank."""
    here = [[task.name in batch.targets for task in tasks] for batch in micro_batches]
    return model.ranks.begin_step(here, len(micro_batches[0].inputs))


def _shares(
    model: MultiTaskMethod, tasks: Sequence[Task], micro_batches: Sequence[Batch]
) -> Sequence[Tensor | None]:
    """This rank's part of every micro-batch in the elements that a task's loss averages over.

    Returns:
        For every micro-batch, shape ``[K]``, float64; None where it is the whole step.
    """
    if len(micro_batches) == 1 and model.ranks.size == 1:
        return [None]
    device = next(model.parameters()).device
    rows = [torch.stack([_num_labelled(task, b, device) for task in tasks]) for b in micro_batches]
    mine = torch.stack(rows)
    total = model.ranks.sum(mine.sum(0))
    equal = 1 / (len(micro_batches) * model.ranks.size)
    return torch.where(total > 0, mine / total.clamp_min(1), equal).unbind()


def _num_labelled(task: Task, batch: Batch, device: torch.device) -> Tensor:
    if task.name not in batch.targets:
        return torch.zeros((), dtype=torch.float64, device=device)
    return task.num_labelled(batch.targets[task.name]).to(device)


def _batch_losses(
    model: MultiTaskMethod,
    tasks: Sequence[Task],
    batch: Batch,
    present: Sequence[bool],
    shares: Tensor | None,
) -> list[Tensor | None]:
    """This rank's parts of the losses of a micro-batch, which add up to those of the step.

    A task that has targets on other ranks alone gets a loss of zero that depends on everything its
    loss would, so that the same gradients are there on all ranks.
    """
    predictions = predict(model, batch)
    losses = task_losses(tasks, predictions, batch)
    if shares is None:
        return losses
    parts: list[Tensor | None] = []
    for k, loss in enumerate(losses):
        if not present[k]:
            parts.append(None)
        elif loss is None:
            parts.append((predictions[k] * 0).sum())
        else:
            parts.append(loss * shares[k].to(loss.dtype))
    return parts


def _total(totals: Sequence[Tensor]) -> Tensor:
    """Sum of the values and presence in any of the micro-batches, shape ``[2, K]``."""
    values, present = torch.stack(list(totals)).unbind(1)
    return torch.stack((values.sum(0), present.amax(0)))


def predict(model: MultiTaskMethod, batch: Batch) -> Sequence[Tensor]:
    """Predictions of all tasks, without extra outputs, float32 or wider."""
    output = model(batch.inputs)
    predictions: Sequence[Tensor] = output[0] if isinstance(output, tuple) else output
    return [x.float() if x.dtype in _HALF else x for x in predictions]


def task_losses(
    tasks: Sequence[Task],
    predictions: Sequence[Tensor],
    batch: Batch,
    *,
    one_graph: bool = True,
) -> list[Tensor | None]:
    """Loss of every task.

    Args:
        tasks: The K tasks.
        predictions: One per task.
        batch: The targets.
        one_graph: Whether losses may be computed at once, which makes them parts of one graph: fine
            for one backward pass from all of them, not for one pass each.

    Returns:
        Scalars, None where the batch has no target.
    """
    if one_graph and _all_at_once(tasks, predictions, batch):
        targets = torch.stack([batch.targets[task.name] for task in tasks])
        return list(torch.vmap(tasks[0].loss)(torch.stack(list(predictions)), targets).unbind())
    return [
        _loss(task, prediction, batch.targets[task.name]) if task.name in batch.targets else None
        for task, prediction in zip(tasks, predictions, strict=True)
    ]


def _loss(task: Task, prediction: Tensor, target: Tensor) -> Tensor:
    try:
        return task.loss(prediction, target)
    except (ConfigError, ShapeError) as error:
        raise ConfigError(f"Task {task.name!r}: {error}") from error


def _all_at_once(tasks: Sequence[Task], predictions: Sequence[Tensor], batch: Batch) -> bool:
    """Whether the losses of all tasks can be one operation: forty tasks, not forty times one."""
    first = tasks[0]
    return len(tasks) > 1 and all(
        task.batchable
        and task.loss is first.loss
        and task.name in batch.targets
        and prediction.shape == predictions[0].shape
        and batch.targets[task.name].shape == batch.targets[first.name].shape
        for task, prediction in zip(tasks, predictions, strict=True)
    )


@torch.no_grad()
def evaluate(
    model: MultiTaskMethod,
    tasks: Sequence[Task],
    batches: Iterable[Batch],
    split: str,
    *,
    positions: Iterable[int] = (),
    num_batches: int = 0,
) -> dict[str, float]:
    """Losses and metrics over a split, each accumulated over all its examples.

    The model is put into evaluation mode and back. The device is waited for at the end alone.

    A loss over the split is the mean over all the elements with a label
    (:meth:`Task.num_labelled`), whatever the batch size. Where all tasks lead with the same metric,
    its statistics over the tasks are added (:func:`rotograd_cli.tasks.statistics.statistics`).

    A NaN in a prediction is no class, and neither above nor below a threshold: if a task has one,
    all its metrics are NaN, and a warning says in how many examples.

    Args:
        model: The network with its method.
        tasks: The K tasks.
        batches: The split; with many ranks (``model.ranks``), those of its batches that are this
            rank's.
        split: Its name, the first part of every key.
        positions: With many ranks, the positions of these batches in the split.
        num_batches: With many ranks, the number of all batches.

    Returns:
        ``split/task/metric``, ``split/task/loss``, ``split/min_metric`` and the other statistics,
        ``split/loss`` (the sum over tasks) and ``split/geomean_loss`` (their geometric mean); NaN
        for a task without any target.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    accumulators = [_Accumulators(task, device) for task in tasks]
    shared = _shared_sums(accumulators) if model.ranks.size > 1 else None
    where = iter(positions)
    for batch in batches:
        predictions = predict(model, batch)
        for k, loss in enumerate(task_losses(tasks, predictions, batch)):
            if loss is not None:
                accumulators[k].add(loss, predictions[k], batch.targets[tasks[k].name])
        if shared is not None:
            shared.close_batch(next(where))
    model.train(was_training)
    computes = shared is None or shared.combine(model.ranks, num_batches)
    every = torch.cat([a.numbers() for a in accumulators])
    if shared is not None:  # one rank has what the last images need
        every = model.ranks.sum(every if computes else torch.zeros_like(every))
    losses: dict[str, float] = {}
    metrics: dict[str, dict[str, float]] = {}
    numbers = iter(every.tolist())  # one transfer
    for task, accumulator in zip(tasks, accumulators, strict=True):
        own = list(islice(numbers, 3 + len(task.metrics)))
        losses[task.name], metrics[task.name] = accumulator.read(own, split)
    result = {f"{split}/{name}/loss": loss for name, loss in losses.items()}
    result |= {f"{split}/{task}/{m}": v for task in metrics for m, v in metrics[task].items()}
    for statistic in task_statistics(tasks):
        leading = [metrics[task.name][task.metrics[0].name] for task in tasks]
        values = torch.tensor(leading, dtype=torch.float64)
        result[f"{split}/{statistic.name}"] = float(statistic.of(values))
    result[f"{split}/loss"] = sum(losses.values())
    result[f"{split}/geomean_loss"] = geometric_mean(losses)
    return result


def _shared_sums(accumulators: Sequence["_Accumulators"]) -> SharedSums:
    metrics = [metric for a in accumulators for metric in a.metrics.values()]
    return SharedSums([a.sums for a in accumulators], metrics)


class _Accumulators:
    """Loss, metrics and NaN of one task over a split, on the device until they are read."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.task = task
        # loss * elements, elements, examples with a NaN in the prediction
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        shared = {_sharing_key(spec): spec for spec in task.metrics}
        self.metrics = {key: spec.create().to(device) for key, spec in shared.items()}

    def add(self, loss: Tensor, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch that has a target."""
        num = self.task.num_labelled(target)
        total = torch.where(num > 0, loss.double() * num, 0)  # some losses of nothing are NaN
        with_nan = prediction.isnan().flatten(1).any(1).sum()
        self.sums += torch.stack((total, num, with_nan))
        for (_, prepare), metric in self.metrics.items():
            metric.update(prepare(prediction), target)

    def numbers(self) -> Tensor:
        """The sums, then the metrics in order, float64, shape ``[3 + num_metrics]``."""
        computed = {key: m.compute() for key, m in self.metrics.items() if m.update_called}
        nan = self.sums.new_full((), math.nan)  # no batch had a target
        keys = [(spec, _sharing_key(spec)) for spec in self.task.metrics]
        values = [spec.value(computed[key]).double() if computed else nan for spec, key in keys]
        return torch.stack((*self.sums, *values))

    def read(self, numbers: Sequence[float], split: str) -> tuple[float, dict[str, float]]:
        """Loss and metrics from the numbers; warns of NaN."""
        total, num, with_nan, *values = numbers
        if with_nan:
            values = [math.nan] * len(values)
            logger.warning(
                "The prediction of task %r is NaN in %d examples of split %s; its metrics are NaN.",
                self.task.name,
                with_nan,
                split,
            )
        names = [spec.name for spec in self.task.metrics]
        return total / num if num else math.nan, dict(zip(names, values, strict=True))


def _sharing_key(spec: MetricSpec) -> tuple[object, Callable[[Tensor], Tensor]]:
    """The same for metrics that share an accumulator."""
    return spec.create, spec.prepare


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


def _detached(values: Tensor, losses: Sequence[Tensor | None]) -> Tensor:
    """Values of the losses and their presence, shape ``[2, K]``, float32 or wider."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    zero, one = torch.zeros_like(values[0]), torch.ones_like(values[0])
    present = [zero if loss is None else one for loss in losses]
    return torch.stack((values, torch.stack(present)))
