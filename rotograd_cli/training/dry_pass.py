"""Before training: one batch of each split and every component are used once, on a copy.

What is refused here is refused before anything is written. The run itself is left as it is: its
weights, buffers and random generators are those of a run without this pass.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.data.base import SPLITS, Batch, MultiTaskDataset, Split
from rotograd_cli.errors import ConfigError, one_line
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.metrics import MetricSpec
from rotograd_cli.training.batch_checks import check_form, check_predictions, where
from rotograd_cli.training.batches import num_steps
from rotograd_cli.training.blame import NoBroadcasting, component_of, silence
from rotograd_cli.training.data_scan import first_batch
from rotograd_cli.training.diagnostics import check_user_numbers
from rotograd_cli.training.evaluation import by_task
from rotograd_cli.training.objective import predict
from rotograd_cli.training.options import TrainOptions
from rotograd_cli.training.schedules import OptimizerGroup, RunLength
from rotograd_cli.training.seeding import unchanged_generators
from rotograd_cli.training.selection import select_by
from rotograd_cli.training.stepper import train_step
from rotograd_cli.trees import like_parameters, map_tensors, tensors
from rotograd_cli.user_code import blamed

MakeGroups = Callable[[MultiTaskMethod], Sequence[OptimizerGroup]]
NUM_EXAMPLES = 8
"""Examples that the components are tried on."""


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
    selection = select_by(options, dataset.tasks)
    real = (p for p in model.model_parameters() if p.is_floating_point())
    example = like_parameters(dataset.example_inputs(), next(real, torch.zeros(())))
    with unchanged_generators(), silence():
        first = {s: first_batch(dataset, s, options, selection, example) for s in SPLITS}
        with blamed("The networks cannot be copied", "keep nothing in them that has a graph"):
            trial = copy.deepcopy(model)
        losses = {s: _try_evaluation(trial, dataset, s, batch) for s, batch in first.items()}
        # 0 for a task that has no label in this batch
        by_task = dict.fromkeys(selection.task_names, 0.0) | losses[selection.split]
        selection.check({f"{selection.split}/{name}/loss": x for name, x in by_task.items()})
        num = options.batch_size // options.accumulate_steps
        batch = _few(first["train"], min(num, NUM_EXAMPLES))
        _try_training(trial, dataset, make_groups, options, batch)


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
    """Return the losses by task; refuse predictions, losses and metrics that are not usable."""
    tasks = dataset.tasks
    component = component_of(model, tasks)
    model.eval()
    with torch.no_grad(), blamed(component, "correct it or choose another", where(dataset, split)):
        predictions = predict(model, batch)
    check_predictions(tasks, predictions, len(batch))
    losses = {}
    for task, prediction in zip(tasks, predictions, strict=True):
        place = where(dataset, split, task)
        if task.name not in batch.targets:
            continue
        if not prediction.isfinite().all():
            raise ConfigError(
                f"{place}: the prediction for finite inputs must be finite before training, got "
                "NaN or infinity; correct the initial values of `backbone` or `head`."
            )
        losses[task.name] = _try_loss(task, prediction, batch.targets[task.name], place)
        for spec in task.metrics:
            _try_metric(spec, prediction, batch.targets[task.name], place)
    return losses


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
    if not _is_scalar(loss) or not loss.requires_grad or not loss.isfinite():
        raise ConfigError(
            f"{place}: the loss must be a finite scalar tensor that depends on the prediction, got "
            f"{one_line(repr(loss)):.60}; reduce it with mean(), leave out detach() and item(), "
            "and leave out NaN in the target."
        )
    with blamed("the loss cannot be differentiated", "correct it", place):
        loss.backward()
    return float(loss)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0


def _try_metric(spec: MetricSpec, prediction: Tensor, target: Tensor, place: str) -> None:
    name = f"the metric {spec.name!r}"
    with blamed(f"{name} fails", "correct it", place):
        metric: Any = spec.create().to(prediction.device)
        metric.distributed_available_fn = lambda: False  # torchmetrics': the first rank is alone
        with NoBroadcasting(len(target)):
            metric.update(spec.prepare(prediction), target)
        value: Any = spec.value(metric.compute())
    if not _is_scalar(value):
        raise ConfigError(
            f"{place}: {name} must be a scalar tensor, got {one_line(repr(value)):.60}; pick one "
            "with the `value` of MetricSpec."
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
        numbers = model.diagnostics()
        model.end_epoch()
    with blamed(component, "correct it or choose another"):
        model.observe_evaluation(by_task(dataset.tasks, {}, "val"))
    check_user_numbers(numbers, len(dataset.tasks), model.method_name)
    length = RunLength(options.epochs, num_steps(dataset, options))
    for group in groups:
        _try_schedule(group, length.num_advances(group.interval, group.warmup_steps))


def _try_schedule(group: OptimizerGroup, length: int) -> None:
    """Advance a schedule once; refuse one that is over before the run, or whose rate is not finite.

    Args:
        group: The optimiser with its schedule.
        length: How often the run advances it.
    """
    name = f"{group.name}_scheduler"
    own_length = getattr(group.scheduler, "total_steps", None)  # a one-cycle schedule has one
    if own_length is not None and own_length < length:
        raise ConfigError(
            f"`{name}.scheduler` ends after {own_length} steps, but the run takes {length}; set "
            f"total_steps={length}."
        )
    value = (0.0,) if group.interval == "evaluation" else ()
    remedy = f"correct it, or choose another with scheduler@{name}=constant"
    with blamed(f"`{name}.scheduler` fails in step()", remedy):
        group.advance(group.interval, group.warmup_steps + 1, *value)
    for options in group.optimizer.param_groups:
        if not math.isfinite(options["lr"]):
            raise ConfigError(
                f"`{name}.scheduler` must keep learning rates finite, got {options['lr']} after "
                f"its first step; {remedy}."
            )


def _augmented(dataset: MultiTaskDataset, batch: Batch, place: str) -> Batch:
    num = len(batch)
    device = tensors(batch.inputs)[0].device
    draws = torch.full((num, dataset.num_draws), 0.5, device=device)
    with blamed("the data set fails", "correct its `augment`", place):
        result = dataset.augment(batch, draws)
    return check_form(result, dataset, _few(batch, 1).inputs, num, place)


def _few(batch: Batch, num: int) -> Batch:
    """Return the first examples of a batch."""
    targets = {name: target[:num] for name, target in batch.targets.items()}
    return Batch(map_tensors(lambda x: x[:num], batch.inputs), targets)
