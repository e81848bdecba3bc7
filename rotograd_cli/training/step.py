"""One optimiser step and one evaluation."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.base import MultiTaskMethod
from rotograd_cli.metrics import geometric_mean
from rotograd_cli.tasks import Task

if TYPE_CHECKING:
    from torchmetrics import Metric


def train_step(
    model: MultiTaskMethod,
    tasks: Sequence[Task],
    micro_batches: Sequence[Batch],
    optimizers: Iterable[Optimizer],
    *,
    grad_clip_norm: float | None = None,
) -> Tensor:
    """Forward, task losses, the method's backward pass, one step of every optimiser.

    Args:
        model: The network with its method, in training mode.
        tasks: The K tasks.
        micro_batches: Parts of one batch, of equal size; their gradients add up to the batch's. A
            task's loss is the mean over the parts that have a target for it.
        optimizers: Stepped in order, then cleared.
        grad_clip_norm: Largest norm of the network's gradient; None leaves it.

    Returns:
        Task losses of the batch (0 where there is none) and whether each was there (1 or 0),
        detached, shape ``[2, K]``.
    """
    num = len(micro_batches)
    counts = [sum(task.name in batch.targets for batch in micro_batches) for task in tasks]
    totals = []
    for index, batch in enumerate(micro_batches):
        losses = [
            None if loss is None else loss / count
            for loss, count in zip(
                task_losses(tasks, predict(model, batch), batch), counts, strict=True
            )
        ]
        model.backward(losses, num_micro_batches=num, accumulating=index < num - 1)
        totals.append(_detached(losses))
    if grad_clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.model_parameters(), grad_clip_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    values, present = torch.stack(totals).unbind(1)
    return torch.stack((values.sum(0), present.amax(0)))


def predict(model: MultiTaskMethod, batch: Batch) -> Sequence[Tensor]:
    """Predictions of all tasks, without extra outputs."""
    output = model(batch.inputs)
    predictions: Sequence[Tensor] = output[0] if isinstance(output, tuple) else output
    return predictions


def task_losses(
    tasks: Sequence[Task], predictions: Sequence[Tensor], batch: Batch
) -> list[Tensor | None]:
    """Loss of every task, None where the batch has no target for it."""
    return [
        task.loss(prediction, batch.targets[task.name]) if task.name in batch.targets else None
        for task, prediction in zip(tasks, predictions, strict=True)
    ]


@torch.no_grad()
def evaluate(
    model: MultiTaskMethod, tasks: Sequence[Task], batches: Iterable[Batch], split: str
) -> dict[str, float]:
    """Losses and metrics over a split, each accumulated over all its examples.

    The model is put into evaluation mode and back. The device is waited for once, at the end.

    Args:
        model: The network with its method.
        tasks: The K tasks.
        batches: The split.
        split: Its name, the first part of every key.

    Returns:
        ``split/task/metric``, ``split/task/loss``, ``split/loss`` (the sum over tasks) and
        ``split/geomean_loss`` (their geometric mean); NaN for a task without any target.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    metrics = {
        (task.name, spec.name): spec.create().to(device) for task in tasks for spec in task.metrics
    }
    sums = torch.zeros(2, len(tasks), dtype=torch.float64, device=device)  # loss * N, N
    for batch in batches:
        predictions = predict(model, batch)
        for k, loss in enumerate(task_losses(tasks, predictions, batch)):
            if loss is None:
                continue
            task, target = tasks[k], batch.targets[tasks[k].name]
            num = target.shape[0]
            sums[:, k] += torch.stack((loss.double() * num, torch.full_like(loss, num).double()))
            for spec in task.metrics:
                metrics[task.name, spec.name].update(spec.prepare(predictions[k]), target)
    model.train(was_training)
    losses = dict(zip((task.name for task in tasks), (sums[0] / sums[1]).tolist(), strict=True))
    result = {f"{split}/{name}/loss": loss for name, loss in losses.items()}
    result |= {f"{split}/{task}/{name}": _value(m) for (task, name), m in metrics.items()}
    result[f"{split}/loss"] = sum(losses.values())
    result[f"{split}/geomean_loss"] = geometric_mean(losses)
    return result


def evaluation_keys(tasks: Sequence[Task], split: str) -> list[str]:
    """Keys of what :func:`evaluate` returns."""
    of_tasks = [
        f"{split}/{task.name}/{name}"
        for task in tasks
        for name in ("loss", *(spec.name for spec in task.metrics))
    ]
    return [*of_tasks, f"{split}/loss", f"{split}/geomean_loss"]


def check_predictions(tasks: Sequence[Task], predictions: Sequence[Tensor]) -> None:
    """Refuses heads whose output does not fit their task.

    Args:
        tasks: The K tasks.
        predictions: Output of every head for one example.

    Raises:
        ConfigError: If a prediction's shape is not ``[1, num_outputs, *map_shape]``.
    """
    for task, prediction in zip(tasks, predictions, strict=True):
        needed = (task.num_outputs, *task.map_shape)
        if tuple(prediction.shape) != (1, *needed):
            needed_text, found = (
                ", ".join(map(str, ("N", *shape))) for shape in (needed, prediction.shape[1:])
            )
            size = "`backbone` (the size of its map), " if task.map_shape else ""
            raise ConfigError(
                f"The head of task {task.name!r} must return shape [{needed_text}], got [{found}]; "
                f"check {size}`head` and `heads.{task.name}`."
            )


def _value(metric: "Metric") -> float:
    return float(metric.compute()) if metric.update_called else math.nan


def _detached(losses: Sequence[Tensor | None]) -> Tensor:
    """Values and presence, shape ``[2, K]``, float32."""
    like = next(loss for loss in losses if loss is not None).detach().float()
    zero, one = torch.zeros_like(like), torch.ones_like(like)
    values = [zero if loss is None else loss.detach().float() for loss in losses]
    present = [zero if loss is None else one for loss in losses]
    return torch.stack((torch.stack(values), torch.stack(present)))
