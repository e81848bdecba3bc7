"""Tasks from plain values, as ``data=torch`` has them in YAML."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError, suggest
from rotograd_cli.tasks import losses, metrics
from rotograd_cli.tasks.labels import NO_LABEL
from rotograd_cli.tasks.loss_options import OPTIONS, with_loss_options
from rotograd_cli.tasks.own_losses import OwnLoss, ignored_index, rule_of_any_target
from rotograd_cli.tasks.own_metrics import metrics_of
from rotograd_cli.tasks.targets import TargetForm
from rotograd_cli.tasks.task import Task
from rotograd_cli.user_code import blamed

KEYS = ("kind", "target", "mask", "num_outputs", "map_shape", "loss", "metrics", "ignore_index")
"""Keys of a task, beside those of :data:`OPTIONS`."""


@dataclass(frozen=True)
class Kind:
    """What a kind of task is made of."""

    loss: Callable[[Tensor, Tensor], Tensor] | None
    """Its loss; None where the user has to bring one."""
    metrics: Callable[[int], tuple[metrics.MetricSpec, ...]]
    """Its metrics, from the number of outputs."""
    num_outputs: int | None = None
    """Number of outputs where none is given; None where one has to be."""
    is_fixed: bool = False
    """Whether no other number of outputs will do."""
    is_dense: bool = False
    """Whether it needs a ``map_shape``."""
    dtype: torch.dtype | None = torch.float32
    """Type of its targets."""
    no_label: float | None = torch.nan
    """Element of a target without a label."""

    @property
    def has_classes(self) -> bool:
        """Whether the outputs are scores of classes, of which a target names one."""
        return self.dtype == torch.int64


def _accuracy(num_outputs: int) -> tuple[metrics.MetricSpec, ...]:
    return (metrics.accuracy(num_outputs),)


_CLASSES: dict[str, Any] = {"dtype": torch.int64, "no_label": NO_LABEL}
_FLAGS = (losses.binary_cross_entropy, lambda _: (metrics.f1(),))
KINDS: Mapping[str, Kind] = {
    "classification": Kind(losses.cross_entropy, _accuracy, **_CLASSES),
    "binary": Kind(*_FLAGS, 1, is_fixed=True, no_label=NO_LABEL),
    "multilabel": Kind(*_FLAGS, no_label=NO_LABEL),
    "regression": Kind(losses.mean_squared_error, lambda _: (metrics.mse(),), 1),
    "segmentation": Kind(
        losses.segmentation_cross_entropy, metrics.segmentation, is_dense=True, **_CLASSES
    ),
    "depth": Kind(
        losses.depth_l1, lambda _: metrics.depth("exact"), 1, is_fixed=True, is_dense=True
    ),
    "normals": Kind(
        losses.normal_cosine, lambda _: metrics.normals("exact"), 3, is_fixed=True, is_dense=True
    ),
    "custom": Kind(None, lambda _: (), dtype=None, no_label=None),
}
"""By name."""


def declared_tasks(tasks: Mapping[str, Mapping[str, Any]]) -> tuple[Task, ...]:
    """Return the tasks that a mapping declares, in its order.

    Each has a ``kind`` (:data:`KINDS`) and, where the kind does not fix it, ``num_outputs``; dense
    ones have a ``map_shape``. ``target`` and ``mask`` are keys of the user's data: of the target
    (that of the task's name if left out), and of what says where there is one. ``loss`` and
    ``metrics`` replace the kind's: objects, or functions made with ``_partial_``. ``class_weights``
    and ``label_smoothing`` belong to the losses of classes of this package. ``ignore_index`` is a
    value that means "no label", beside NaN and, of classes, -1.

    Args:
        tasks: Options by task.

    Returns:
        The tasks; their :attr:`Task.target` makes targets of the user's data.

    Raises:
        ConfigError: If a key is unknown or missing, or a value wrong.
    """
    if not isinstance(tasks, Mapping) or not tasks:
        raise ConfigError(
            f"`data.tasks` must declare at least one task, got {tasks!r}; write tasks: {{NAME: "
            "{kind: binary}}."
        )
    result = []
    for name, options in tasks.items():
        with blamed("it cannot be declared", "correct it", f"`data.tasks.{name}`"):
            task = _Declaration(str(name), options).task()
        chosen = {key: options.get(key) for key in OPTIONS}
        result.append(with_loss_options(task, f"data.tasks.{name}", **chosen))
    return tuple(result)


class _Declaration:
    """One task under way."""

    def __init__(self, name: str, options: Any) -> None:
        self.name = name
        if not isinstance(options, Mapping):
            raise ConfigError(f"it must be a mapping, got {options!r}; write {{kind: binary}}.")
        self.options = {str(key): value for key, value in options.items() if value is not None}
        for key in self.options:
            if key not in (*KEYS, *OPTIONS):
                hint = suggest(key, (*KEYS, *OPTIONS))
                raise ConfigError(f"`{key}` is not a key of a task; {hint}")
        self.kind_name = str(self.options.get("kind"))
        if self.kind_name not in KINDS:
            kinds = ", ".join(KINDS)
            raise ConfigError(f"`kind` must be one of {kinds}, got {self.kind_name!r}.")
        self.kind = KINDS[self.kind_name]
        self.is_binary = self.kind.loss is losses.binary_cross_entropy
        self.num_outputs = self._num_outputs()
        self.map_shape = self._map_shape()
        is_number = self.kind_name == "regression" and not self.map_shape
        # whether a target lacks the axis of the one output
        self.is_squeezed = self.num_outputs == 1 and (is_number or self.is_binary)

    def task(self) -> Task:
        """Return the task."""
        index = self._ignore_index()
        loss = self._loss(index)
        return Task(
            self.name,
            self.num_outputs,
            loss,
            self._metrics(losses.target_rule(loss)),
            self.map_shape,
            batchable=loss is self.kind.loss,
            count=getattr(loss, "count", None),
            target=self._target(index),
        )

    def _num_outputs(self) -> int:
        kind = self.kind
        num = self.options.get("num_outputs", kind.num_outputs)
        least = 2 if kind.has_classes else 1
        need = f"an integer of at least {least}"
        remedy = "give the size of the head's output"
        if kind.is_fixed:
            need = str(kind.num_outputs)
            remedy = "take kind: multilabel" if self.kind_name == "binary" else "leave it out"
        elif num == 1:
            remedy = "for yes or no take kind: binary"
        if type(num) is not int or num < least or (kind.is_fixed and num != kind.num_outputs):
            raise ConfigError(
                f"`num_outputs` must be {need} for kind {self.kind_name}, got {num!r}; {remedy}."
            )
        return num

    def _map_shape(self) -> tuple[int, ...]:
        shape = self.options.get("map_shape", ())
        is_shape = isinstance(shape, (list, tuple)) and all(type(n) is int and n > 0 for n in shape)
        if not is_shape or (self.kind.is_dense and len(shape) != 2):
            raise ConfigError(
                f"`map_shape` must be [HEIGHT, WIDTH] for kind {self.kind_name}, got {shape!r}; "
                "give the size of the target."
            )
        return tuple(shape)

    def _ignore_index(self) -> Any:
        index = self.options.get("ignore_index", ignored_index(self.options.get("loss")))
        types = (int,) if self.kind.has_classes or self.kind.dtype is None else (int, float)
        if index is not None and type(index) not in types:
            raise ConfigError(f"`ignore_index` must be a number, got {index!r}; correct it.")
        return index

    def _loss(self, index: Any) -> Any:
        like = self.kind.loss
        own = self.options.get("loss", like)
        if own is like and like is not None:
            return like
        if not callable(own):
            raise ConfigError(
                f"`loss` must be a function for kind {self.kind_name}, got {own!r}; give a "
                "_target_."
            )
        rule = rule_of_any_target(index) if like is None else losses.target_rule(like)
        assert rule is not None
        return OwnLoss(own, rule, self.num_outputs, like=like, squeezed=self.is_squeezed)

    def _metrics(self, rule: losses.TargetRule | None) -> tuple[metrics.MetricSpec, ...]:
        own = self.options.get("metrics")
        if own is None:
            return self.kind.metrics(self.num_outputs)
        assert rule is not None
        return metrics_of(own, self.prepared, rule.labelled, flags=self.is_binary)

    def prepared(self, prediction: Tensor) -> Tensor:
        """Return a prediction as torchmetrics takes it: logits as probabilities."""
        if self.kind.has_classes:
            return prediction.double().softmax(1)
        values = prediction.squeeze(1) if self.is_squeezed else prediction
        return values.double().sigmoid() if self.is_binary else values

    def _target(self, index: Any) -> TargetForm:
        kind = self.kind
        has_axis = not kind.has_classes and not self.is_squeezed
        shape = (self.num_outputs, *self.map_shape) if has_axis else self.map_shape
        is_custom = kind.loss is None
        return TargetForm(
            self.name,
            None if is_custom else shape,
            kind.dtype,
            index if is_custom else kind.no_label,
            index,
            self.options.get("target", self.name),
            self.options.get("mask"),
        )
