"""Every component is used once on a few examples, under the name that a refusal gives it."""

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split
from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.metrics import MetricSpec
from rotograd_cli.training.batch_checks import check_form, check_predictions, require, where
from rotograd_cli.training.blame import blamed, component_of
from rotograd_cli.training.coverage import num_steps
from rotograd_cli.training.objective import predict
from rotograd_cli.training.options import TrainOptions
from rotograd_cli.training.run_state import OptimizerGroup
from rotograd_cli.training.stepper import train_step

NUM_EXAMPLES = 8
"""Examples that the components are tried on."""

MakeGroups = Callable[[MultiTaskMethod], Sequence[OptimizerGroup]]


def try_evaluation(
    model: MultiTaskMethod, dataset: MultiTaskDataset, split: Split, batch: Batch
) -> dict[str, float]:
    """Evaluate a few examples, or the whole batch where few are not enough.

    Args:
        model: A copy of the network with its method.
        dataset: The data.
        split: Split of the batch.
        batch: Of the right form, its values fine.

    Returns:
        Losses by task.

    Raises:
        ConfigError: If a component, a loss or a metric fails or returns what cannot be used.
    """
    some = few(batch, NUM_EXAMPLES)
    try:
        return _evaluate(model, dataset, split, some)
    except ConfigError:
        if len(some.inputs) == len(batch.inputs):
            raise
        return _evaluate(model, dataset, split, batch)


def _evaluate(
    model: MultiTaskMethod, dataset: MultiTaskDataset, split: Split, batch: Batch
) -> dict[str, float]:
    tasks = dataset.tasks
    component = component_of(model, tasks)
    model.eval()
    with (
        torch.no_grad(),
        blamed(component, "correct it or choose another", where(dataset.name, split)),
    ):
        predictions = predict(model, batch)
    check_predictions(tasks, predictions, len(batch.inputs))
    losses = {}
    for task, prediction in zip(tasks, predictions, strict=True):
        if task.name in batch.targets:
            place = where(dataset.name, split, task.name)
            losses[task.name] = _try_task(task, prediction, batch.targets[task.name], place)
    return losses


def _try_task(task: Task, prediction: Tensor, target: Tensor, place: str) -> float:
    require(
        bool(prediction.isfinite().all()),
        f"{place}: the prediction for finite inputs",
        "be finite before training",
        "NaN or infinity",
        "correct the initial values of `backbone` or `head`",
    )
    loss = _try_loss(task, prediction, target, place)
    for spec in task.metrics:
        _try_metric(spec, prediction, target, place)
    return loss


def _try_loss(task: Task, prediction: Tensor, target: Tensor, place: str) -> float:
    leaf = prediction.detach().clone().requires_grad_()
    before = target._version
    with blamed("the loss fails", "correct it", place), _NoBroadcasting(len(target)):
        loss: Any = task.loss(leaf, target)
    if target._version != before:
        raise ConfigError(
            f"{place}: the loss must leave the target as it is, which the metrics see too, but "
            "writes into it; write target = target.clone() first."
        )
    thing = f"{place}: the loss"
    requirement = "be a finite scalar that depends on the prediction"
    has_nan = bool(target.isnan().any())
    hint = " that leaves out the NaN in the target" if has_nan else ""
    is_tensor = isinstance(loss, Tensor)
    require(is_tensor, thing, requirement, f"a {type(loss).__name__}", "return a tensor")
    shape = f"shape {list(loss.shape)}"
    require(loss.dim() == 0, thing, requirement, shape, "reduce it with mean()")
    remedy = "leave out detach() and item()"
    require(loss.requires_grad, thing, requirement, "one without a gradient", remedy)
    value = float(loss)
    remedy = f"correct the loss, or use one{hint}"
    require(bool(loss.isfinite()), thing, requirement, value, remedy)
    with blamed("the loss cannot be differentiated", "correct it", place):
        loss.backward()
    return value


def _try_metric(spec: MetricSpec, prediction: Tensor, target: Tensor, place: str) -> None:
    name = f"the metric {spec.name!r}"
    with blamed(f"{name} fails", "correct it", place):
        metric: Any = spec.create().to(prediction.device)
        metric.distributed_available_fn = lambda: False  # torchmetrics': the first rank is alone
        with _NoBroadcasting(len(target)):
            metric.update(spec.prepare(prediction), target)
        value: Any = spec.value(metric.compute())
    is_tensor = isinstance(value, Tensor)
    require(
        is_tensor and value.dim() == 0,
        f"{place}: {name}",
        "be a scalar tensor",
        f"shape {list(value.shape)}" if is_tensor else type(value).__name__,
        "pick one with the `value` of MetricSpec",
    )


def try_training(
    model: MultiTaskMethod,
    dataset: MultiTaskDataset,
    make_groups: MakeGroups,
    options: TrainOptions,
    batch: Batch,
) -> None:
    """Take one step and advance every schedule once.

    Args:
        model: A copy of the network with its method; trained here.
        dataset: The data.
        make_groups: Makes the optimisers with their schedules.
        options: The loop's options.
        batch: Examples of the training split.

    Raises:
        ConfigError: If a component fails, or an optimiser or a schedule needs more than a call.
    """
    model.train()
    place = where(dataset.name, "train")
    batch = _augmented(dataset, batch, place) if options.augment else batch
    groups = make_groups(model)
    optimizers: list[Any] = [_NamedOptimizer(group) for group in groups]
    for group in groups:
        _check_call(group.optimizer, f"{group.name}_optimizer", "optimizer", "adam")
        _check_call(group.scheduler, f"{group.name}_scheduler", "scheduler", "constant")
    component = component_of(model, dataset.tasks)
    with blamed(component, "correct it or choose another", f"{place}, a training step"):
        train_step(model, dataset.tasks, [batch], optimizers, grad_clip_norm=options.grad_clip_norm)
        model.refresh()
        model.diagnostics()
        model.end_epoch()
    for group in groups:
        _check_length(group, dataset, options)
        with blamed(f"`{group.name}_scheduler.scheduler` has a wrong value", "correct it"):
            group.scheduler.step()


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
    if not dataset.num_draws:
        return batch
    place = f"{place}, augmented"
    num = len(batch.inputs)
    draws = torch.full((num, dataset.num_draws), 0.5, device=batch.inputs.device)
    with blamed("the data set fails", "correct its `augment`", place):
        result = dataset.augment(batch, draws)
    return check_form(result, dataset.tasks, batch.inputs[:1], num, place)


class _NamedOptimizer:
    """An optimiser that is named where it fails."""

    def __init__(self, group: OptimizerGroup) -> None:
        self.optimizer = group.optimizer
        self.zero_grad = group.optimizer.zero_grad
        self.name = f"`{group.name}_optimizer`"

    def step(self) -> None:
        with blamed(f"{self.name} fails in its first step", "correct it or choose another"):
            self.optimizer.step()


def _check_call(component: Any, name: str, group: str, choice: str) -> None:
    """Refuse a ``step`` that needs what a training loop does not have: a closure, a metric."""
    try:
        inspect.signature(type(component).step).bind(component)
    except TypeError as error:
        raise ConfigError(
            f"`{name}` must advance without arguments, but {type(component).__name__}.step is "
            f"{error}; choose another with {group}@{name}={choice}."
        ) from error


def few(batch: Batch, num: int) -> Batch:
    """Return the first examples of a batch."""
    targets = {name: target[:num] for name, target in batch.targets.items()}
    return Batch(batch.inputs[:num], targets)


@contextmanager
def silence() -> Iterator[None]:
    """Inside, nothing is warned of: a few examples are no reason. Broadcasting is an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # FAMO's remark on negative losses comes in the run itself
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="Using a target size")
            yield
    finally:
        logging.disable(before)


class _NoBroadcasting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, ``[N, 1]`` against ``[N]`` is an error: it would become ``[N, N]``, unnoticed.

    ``[N, 1]`` against C thresholds, an ordinal loss's, is none.

    Args:
        num: Number N of examples.
    """

    def __init__(self, num: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num = num

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        shapes = [tuple(x.shape) for x in args if isinstance(x, Tensor) and x.dim()]
        if torch.Tag.pointwise in func.tags and len({len(shape) for shape in shapes}) > 1:
            shape = tuple(result.shape)
            if shape not in shapes and min(shapes, key=len)[0] == self.num:
                found = " against ".join(str(list(shape)) for shape in shapes)
                raise ShapeError(
                    f"prediction and target must have one shape, got {found}, which is broadcast "
                    f"to {list(shape)}; write prediction.squeeze(1), or target.unsqueeze(1)."
                )
        return result
