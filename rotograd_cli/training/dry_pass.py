"""Before training: one batch of each split and every component are used once, on a copy.

What is refused here is refused before anything is written. The run itself is left as it is: its
weights, buffers and random generators are those of a run without this pass.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, in_parts
from rotograd_cli.data.stored import StoredDataset
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.metrics import MetricSpec
from rotograd_cli.training.batch_checks import (
    SeenFlags,
    check_form,
    check_predictions,
    find_fault,
    where,
)
from rotograd_cli.training.batches import complete_batches, evaluation_parts, num_steps
from rotograd_cli.training.blame import NoBroadcasting, blamed, component_of, silence
from rotograd_cli.training.objective import predict
from rotograd_cli.training.options import TrainOptions
from rotograd_cli.training.run_state import OptimizerGroup
from rotograd_cli.training.seeding import unchanged_generators
from rotograd_cli.training.selection import Selection, select_by
from rotograd_cli.training.stepper import train_step

MakeGroups = Callable[[MultiTaskMethod], Sequence[OptimizerGroup]]
NUM_EXAMPLES = 8
"""Examples that the components are tried on."""
SCAN_S = 0.2
"""Seconds of the CPU in which more of a split in memory is looked at. What is not looked at is
noticed when it is trained on or evaluated."""


def dry_pass(
    model: MultiTaskMethod,
    dataset: MultiTaskDataset,
    make_groups: MakeGroups,
    options: TrainOptions,
) -> None:
    """Try data set, networks, method, optimisers and schedules; say nothing when all is well.

    Args:
        model: The network with its method, on the device; one process's.
        dataset: The data, on the same device.
        make_groups: Makes the optimisers with their schedules for a copy of the model.
        options: The loop's options.

    Raises:
        RotogradError: If something cannot be trained with, cannot be evaluated, or cannot be
            selected by; the line names the component, or data set, split and task.
    """
    evaluated = ("train", "val") if options.evaluate_train else ("val",)
    selection = select_by(options.select, options.select_mode, dataset.tasks, evaluated)
    real = (p for p in model.model_parameters() if p.is_floating_point())
    example = next(real, torch.zeros(())).new_zeros(1, *dataset.input_shape)
    with unchanged_generators(), silence():
        splits: tuple[Split, ...] = ("train", "val", "test")
        first = {s: _SplitScan(dataset, s, options, selection, example).first() for s in splits}
        with blamed("The networks cannot be copied", "keep nothing in them that has a graph"):
            trial = copy.deepcopy(model)
        losses = {
            split: _try_evaluation(trial, dataset, split, batch) for split, batch in first.items()
        }
        by_task = dict.fromkeys(selection.task_names, 0.0) | losses[selection.split]
        selection.check({f"{selection.split}/{name}/loss": x for name, x in by_task.items()})
        num = options.batch_size // options.accumulate_steps
        batch = _few(first["train"], min(num, NUM_EXAMPLES))
        _try_training(trial, dataset, make_groups, options, batch)


@dataclass(frozen=True)
class _SplitScan:
    """A look at as much of a split as is cheap."""

    dataset: MultiTaskDataset
    split: Split
    options: TrainOptions
    selection: Selection
    example: Tensor
    """An input as the networks take it."""

    def first(self) -> Batch:
        """Return the first batch; refuse what is wrong in it and the next ones."""
        parts = self._parts()
        missing = set(self._tasks_needed())
        flags = SeenFlags(self.dataset.tasks)
        batches: list[Batch] = []
        num_read = 0
        start = time.process_time()
        for batch, part in zip(self._batches(parts), parts, strict=False):
            self._check(batch, len(part))
            batches = batches or [batch]
            num_read += 1
            missing -= self._labelled(batch)
            flags.add(batch)
            is_slow = isinstance(self.dataset, StoredDataset)
            if not missing and (is_slow or time.process_time() - start > SCAN_S):
                break
        flags.check(self.dataset, self.split, is_whole=num_read == len(parts))
        if missing:
            self._refuse_unlabelled(missing, batches[0])
        return batches[0]

    def _parts(self) -> Sequence[Tensor]:
        place = where(self.dataset, self.split)
        with blamed("the data set fails", "correct its `num_examples`", place):
            num = self.dataset.num_examples(self.split)
        if num < 1:
            raise ConfigError(
                f"{place}: at least one example is needed, got {num}; move examples from another "
                "split there."
            )
        if self.split == "train":
            return in_parts(torch.arange(num), min(num, self.options.batch_size))
        return evaluation_parts(self.dataset, self.split, self.options)

    def _batches(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        place = where(self.dataset, self.split)
        with blamed("the data set fails", "correct its `batch`", place):
            yield from complete_batches(self.dataset, self.split, parts)

    def _check(self, batch: Batch, num: int) -> None:
        place = where(self.dataset, self.split)
        check_form(batch, self.dataset.tasks, self.example, num, place)
        fault = find_fault([batch], self.dataset, self.split)
        if fault is not None:
            raise ConfigError(fault)

    def _tasks_needed(self) -> tuple[str, ...]:
        if self.split == "train":
            return self.selection.task_names
        return self.selection.tasks_needed() if self.split == self.selection.split else ()

    def _labelled(self, batch: Batch) -> set[str]:
        """Return the names of the tasks with a label in a batch."""
        names = set()
        for task in self.dataset.tasks:
            if task.name in batch.targets:
                place = where(self.dataset, self.split, task)
                with blamed("the labels cannot be counted", "correct the target or `count`", place):
                    if bool(task.num_labelled(batch.targets[task.name]) > 0):
                        names.add(task.name)
        return names

    def _refuse_unlabelled(self, missing: set[str], batch: Batch) -> None:
        first = next(task for task in self.dataset.tasks if task.name in missing)
        others = [name for name in self.selection.task_names if name not in missing]
        remedy = f"train with tasks=[{','.join(others)}]" if others else "train with other data"
        reason = "it is to be trained"
        if self.split == self.selection.split:
            reason = f"{self.selection.key} needs it"
            if others:
                choice = f"train.select={self.split}/{others[0]}/loss"
                remedy = f"select by another task with {choice}, or {remedy}"
        targets = ", ".join(map(str, batch.targets)) or "no task"
        raise ConfigError(
            f"{where(self.dataset, self.split, first)}: at least one label is needed, as {reason}, "
            f"got none (the batch has targets of {targets}); {remedy}."
        )


def _try_evaluation(
    model: MultiTaskMethod, dataset: MultiTaskDataset, split: Split, batch: Batch
) -> dict[str, float]:
    """Evaluate a few examples, or the whole batch where few are not enough."""
    try:
        return _evaluate(model, dataset, split, _few(batch, NUM_EXAMPLES))
    except ConfigError:
        return _evaluate(model, dataset, split, batch)


def _evaluate(
    model: MultiTaskMethod, dataset: MultiTaskDataset, split: Split, batch: Batch
) -> dict[str, float]:
    tasks = dataset.tasks
    component = component_of(model, tasks)
    place = where(dataset, split)
    model.eval()
    with torch.no_grad(), blamed(component, "correct it or choose another", place):
        predictions = predict(model, batch)
    check_predictions(tasks, predictions, len(batch.inputs))
    return {
        task.name: _try_task(
            task, prediction, batch.targets[task.name], where(dataset, split, task)
        )
        for task, prediction in zip(tasks, predictions, strict=True)
        if task.name in batch.targets
    }


def _try_task(task: Task, prediction: Tensor, target: Tensor, place: str) -> float:
    if not prediction.isfinite().all():
        raise ConfigError(
            f"{place}: the prediction for finite inputs must be finite before training, got NaN or "
            "infinity; correct the initial values of `backbone` or `head`."
        )
    loss = _try_loss(task, prediction, target, place)
    for spec in task.metrics:
        _try_metric(spec, prediction, target, place)
    return loss


def _try_loss(task: Task, prediction: Tensor, target: Tensor, place: str) -> float:
    leaf = prediction.detach().clone().requires_grad_()
    before = target._version
    with blamed("the loss fails", "correct it", place), NoBroadcasting(len(target)):
        loss: Any = task.loss(leaf, target)
    if target._version != before:
        raise ConfigError(
            f"{place}: the loss must leave the target as it is, which the metrics see too, but "
            "writes into it; write target = target.clone() first."
        )
    fault = _fault_of_loss(loss)
    if fault is not None:
        raise ConfigError(
            f"{place}: the loss must be a finite scalar that depends on the prediction, got {fault}"
        )
    with blamed("the loss cannot be differentiated", "correct it", place):
        loss.backward()
    return float(loss)


def _fault_of_loss(loss: Any) -> str | None:
    """Return what a loss is that it must not be, and what to do."""
    if not isinstance(loss, Tensor):
        return f"a {type(loss).__name__}; return a tensor."
    if loss.dim() > 0:
        return f"shape {list(loss.shape)}; reduce it with mean()."
    if not loss.requires_grad:
        return "one without a gradient; leave out detach() and item()."
    if not loss.isfinite():
        return f"{float(loss)}; correct the loss, or use one that leaves out NaN in the target."
    return None


def _try_metric(spec: MetricSpec, prediction: Tensor, target: Tensor, place: str) -> None:
    name = f"the metric {spec.name!r}"
    with blamed(f"{name} fails", "correct it", place):
        metric: Any = spec.create().to(prediction.device)
        metric.distributed_available_fn = lambda: False  # torchmetrics': the first rank is alone
        with NoBroadcasting(len(target)):
            metric.update(spec.prepare(prediction), target)
        value: Any = spec.value(metric.compute())
    if not isinstance(value, Tensor) or value.dim() > 0:
        shape = getattr(value, "shape", "no tensor")
        raise ConfigError(
            f"{place}: {name} must be a scalar tensor, got {type(value).__name__} ({shape}); pick "
            "one with the `value` of MetricSpec."
        )


def _try_training(
    model: MultiTaskMethod,
    dataset: MultiTaskDataset,
    make_groups: MakeGroups,
    options: TrainOptions,
    batch: Batch,
) -> None:
    """Take one step and advance every schedule once."""
    model.train()
    place = where(dataset, "train")
    if options.augment and dataset.num_draws:
        batch = _augmented(dataset, batch, f"{place}, augmented")
    groups = make_groups(model)
    optimizers = [group.optimizer for group in groups]
    component = component_of(model, dataset.tasks, groups)
    with blamed(component, "correct it or choose another", f"{place}, a training step"):
        train_step(model, dataset.tasks, [batch], optimizers, grad_clip_norm=options.grad_clip_norm)
        model.refresh()
        model.diagnostics()
        model.end_epoch()
    for group in groups:
        _check_length(group, dataset, options)
        _advance(group)


def _advance(group: OptimizerGroup) -> None:
    """Advance a schedule once; refuse one that fails, or whose rate is not finite then."""
    name = f"{group.name}_scheduler"
    remedy = f"correct it, or choose another with scheduler@{name}=constant"
    with blamed(f"`{name}.scheduler` fails in step()", remedy):
        group.scheduler.step()
    for options in group.optimizer.param_groups:
        if not math.isfinite(options["lr"]):
            raise ConfigError(
                f"`{name}.scheduler` must keep learning rates finite, got {options['lr']} after "
                f"its first step; {remedy}."
            )


def _check_length(group: OptimizerGroup, dataset: MultiTaskDataset, options: TrainOptions) -> None:
    """Refuse a schedule that knows its length (a one-cycle one) and is over before the run."""
    length = getattr(group.scheduler, "total_steps", None)
    per_epoch = num_steps(dataset, options) if group.interval == "step" else 1
    needed = options.epochs * per_epoch
    if length is not None and length < needed:
        raise ConfigError(
            f"`{group.name}_scheduler.scheduler` ends after {length} steps, but the run takes "
            f"{needed}; set total_steps={needed}."
        )


def _augmented(dataset: MultiTaskDataset, batch: Batch, place: str) -> Batch:
    num = len(batch.inputs)
    draws = torch.full((num, dataset.num_draws), 0.5, device=batch.inputs.device)
    with blamed("the data set fails", "correct its `augment`", place):
        result = dataset.augment(batch, draws)
    return check_form(result, dataset.tasks, batch.inputs[:1], num, place)


def _few(batch: Batch, num: int) -> Batch:
    """Return the first examples of a batch."""
    targets = {name: target[:num] for name, target in batch.targets.items()}
    return Batch(batch.inputs[:num], targets)
