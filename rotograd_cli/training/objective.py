"""The task losses of a step: predictions, losses, and a rank's or micro-batch's share in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.linalg import devices
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.tasks.task import Task
from rotograd_cli.trees import call

_HALF = (torch.float16, torch.bfloat16)


def predict(model: MultiTaskMethod, batch: Batch) -> Sequence[Tensor]:
    """Return the predictions of all tasks without extra outputs, float32 or wider."""
    output = call(model, batch.inputs)
    predictions: Sequence[Tensor] = output[0] if isinstance(output, tuple) else output
    return [x.float() if x.dtype in _HALF else x for x in predictions]


def task_losses(
    tasks: Sequence[Task],
    predictions: Sequence[Tensor],
    batch: Batch,
    *,
    one_graph: bool = True,
) -> list[Tensor | None]:
    """Return the loss of every task.

    Args:
        tasks: The K tasks.
        predictions: One per task.
        batch: The targets.
        one_graph: Whether losses may be computed at once, which makes them parts of one graph: fine
            for one backward pass from all of them, not for one pass each.

    Returns:
        Scalars, None where the batch has no target.
    """
    if one_graph and _fit_one_operation(tasks, predictions, batch):
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


def _fit_one_operation(tasks: Sequence[Task], predictions: Sequence[Tensor], batch: Batch) -> bool:
    """Return whether the losses of all tasks, forty say, can be one operation."""
    shapes = {prediction.shape for prediction in predictions}
    return len(shapes) == 1 and _have_equal_targets(tasks, batch)


def _have_equal_targets(tasks: Sequence[Task], batch: Batch) -> bool:
    """Return whether all tasks read targets of one shape in the same way."""
    first = tasks[0]
    return len(tasks) > 1 and all(
        task.batchable
        and task.loss is first.loss
        and task.name in batch.targets
        and batch.targets[task.name].shape == batch.targets[first.name].shape
        for task in tasks
    )


def _num_labelled(tasks: Sequence[Task], batch: Batch, like: Tensor) -> Tensor:
    """Return how many labelled elements each task has, of the type of ``like``, shape ``[K]``."""
    counts_alike = all(task.count is None for task in tasks)  # a user's may look at values
    if counts_alike and _have_equal_targets(tasks, batch):
        targets = torch.stack([batch.targets[task.name] for task in tasks])
        return torch.vmap(tasks[0].num_labelled)(targets).to(like)
    none = like.new_zeros(())
    counts = [
        task.num_labelled(batch.targets[task.name]).to(like) if task.name in batch.targets else none
        for task in tasks
    ]
    return torch.stack(counts)


@dataclass
class Objective:
    """The task losses of one optimiser step, whose parts add up over micro-batches and ranks.

    A task's loss is the mean over all elements with a label in the step. Every micro-batch of every
    rank has a share of them, and its part of the loss is its own mean times that share.

    Args:
        model: The network with its method.
        tasks: The K tasks.
        micro_batches: This rank's rows of the parts of one batch.
    """

    model: MultiTaskMethod
    tasks: Sequence[Task]
    micro_batches: Sequence[Batch]

    def __post_init__(self) -> None:
        batches = self.micro_batches
        here = [[task.name in batch.targets for task in self.tasks] for batch in batches]
        self._present = self.model.ranks.begin_step(here, len(batches[0]))
        self.labelled: Tensor | None = None
        self._shares: Tensor | None = None
        is_whole = len(batches) == 1 and self.model.ranks.size == 1
        if not is_whole or any(task.may_lack_labels for task in self.tasks):
            self._measure_shares(is_whole)

    def labelled_in(self, index: int) -> Tensor | None:
        """Return whether each task has a label in a micro-batch, boolean; None for all of them."""
        return None if self.labelled is None else self.labelled[index]

    @property
    def is_empty(self) -> bool:
        """Whether no task has a label in the step, as far as that is known without waiting."""
        return not any(map(any, self._present))

    def parts(self, index: int) -> list[Tensor | None]:
        """Return this rank's parts of the losses of a micro-batch.

        A task that has targets on other ranks alone gets a loss of zero that depends on everything
        its loss would, so that the same gradients are there on all ranks.

        Args:
            index: Which micro-batch.

        Returns:
            Scalars, None for a task without a label in this micro-batch on any rank, as far as that
            is known without waiting: :attr:`labelled` has the rest. Where no task has one, zeros.
        """
        batch = self.micro_batches[index]
        predictions = predict(self.model, batch)
        if not any(self._present[index]):
            return [prediction[:0].sum() for prediction in predictions]  # others have a label
        if self._shares is None:
            losses = task_losses(self.tasks, predictions, batch)
            present = self._present[index]
            return [x if is_there else None for x, is_there in zip(losses, present, strict=True)]
        shares = self._shares[index].unbind()
        predictions = [_gated(x, s) for x, s in zip(predictions, shares, strict=True)]
        losses = task_losses(self.tasks, predictions, batch)
        parts: list[Tensor | None] = []
        for loss, prediction, share, is_present in zip(
            losses, predictions, shares, self._present[index], strict=True
        ):
            if not is_present:
                parts.append(None)
            elif loss is None:
                parts.append(prediction[:0].sum())  # of nothing, which is never NaN
            else:
                part = loss * share.to(loss.dtype)
                parts.append(torch.where(share > 0, part, 0))  # a loss of nothing may be NaN
        return parts

    @torch.no_grad()
    def measure(self) -> Tensor:
        """Return the losses of the step for the model as it is now, shape ``[K]``.

        Neither random numbers are used up nor buffers (running statistics) changed.
        """
        buffers = list(self.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        device = next(self.model.parameters()).device
        values = []
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for index in range(len(self.micro_batches)):
                losses = self.parts(index)
                like = next(loss for loss in losses if loss is not None)
                filled = [torch.zeros_like(like) if loss is None else loss for loss in losses]
                values.append(self.model.ranks.sum(torch.stack(filled)))
        self.model.forget()
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        return self.total(values)[0]

    def total(self, values: Sequence[Tensor]) -> Tensor:
        """Return the losses of the step, and whether each was there (1 or 0) on any rank.

        Args:
            values: The losses of every micro-batch, shape ``[K]`` each.

        Returns:
            Shape ``[2, K]``, float32 or wider.
        """
        dtype = torch.promote_types(values[0].dtype, torch.float32)
        parts = [value.to(dtype) for value in values]
        losses = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        present = torch.ones_like(losses)
        for k, flags in enumerate(zip(*self._present, strict=True)):
            if not any(flags):
                present[k] = 0
        if self.labelled is not None:
            present = present * self.labelled.any(0)
        return torch.stack((losses, present))

    def _measure_shares(self, is_whole: bool) -> None:
        """Find out which tasks have labels, and which share of them every micro-batch has.

        Sets :attr:`labelled`, whether a task has a label in a micro-batch on any rank, boolean,
        shape ``[num_micro_batches, K]``, and unless the step is one micro-batch of one rank, whose
        share is 1, the shares, float64, of the same shape.
        """
        ranks = self.model.ranks
        num = len(self.micro_batches)
        device = next(self.model.parameters()).device
        counts = torch.zeros(num, len(self.tasks), dtype=torch.float64, device=device)
        for index, batch in enumerate(self.micro_batches):
            counts[index] = _num_labelled(self.tasks, batch, counts)
        of_ranks = ranks.sum(counts)
        self.labelled = of_ranks > 0
        if devices.reads_are_free(device):
            self._present = self.labelled.tolist()
        if not is_whole:
            total = of_ranks.sum(0)
            equal = 1 / (num * ranks.size)
            self._shares = torch.where(total > 0, counts / torch.where(total > 0, total, 1), equal)


def _gated(prediction: Tensor, share: Tensor) -> Tensor:
    """Return the same values, to which a loss without a share sends back zeros, and no NaN."""
    view = prediction.view_as(prediction)  # the prediction itself may be what all tasks share
    if view.requires_grad:
        view.register_hook(lambda gradient: torch.where(share > 0, gradient, 0))  # type: ignore[no-untyped-call]
    return view
