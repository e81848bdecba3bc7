"""Tasks from plain values, as ``data=torch`` has them in YAML."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import losses, metrics
from rotograd_cli.tasks.labels import NO_LABEL
from rotograd_cli.tasks.loss_options import with_loss_options
from rotograd_cli.tasks.own_losses import OwnLoss, ignored_index, rule_of_any_target
from rotograd_cli.tasks.own_metrics import metrics_of
from rotograd_cli.tasks.targets import TargetForm
from rotograd_cli.tasks.task import Task

KEYS = (
    "kind",
    "num_outputs",
    "map_shape",
    "loss",
    "metrics",
    "class_weights",
    "label_smoothing",
    "ignore_index",
)
"""Keys of a task."""


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
    ones have a ``map_shape``. ``loss`` and ``metrics`` replace the kind's: objects, or functions
    that were made with ``_partial_``. ``class_weights`` and ``label_smoothing`` belong to the
    losses of classes of this package. ``ignore_index`` is a value that means "no label" in the
    user's data, beside NaN and, of classes, -1. Their :attr:`Task.target` makes targets.

    Args:
        tasks: Options by task.

    Raises:
        ConfigError: If a key is unknown or missing, or a value wrong.
    """
    if not isinstance(tasks, Mapping) or not tasks:
        raise ConfigError(
            f"`data.tasks` must declare at least one task, got {tasks!r}; write tasks: {{NAME: "
            "{kind: binary}}."
        )
    return tuple(_Declaration(str(name), options).task() for name, options in tasks.items())


class _Declaration:
    """One task under way."""

    def __init__(self, name: str, options: Any) -> None:
        self.name = name
        if not isinstance(options, Mapping):
            raise ConfigError(
                f"`data.tasks.{name}` must be a mapping, got {options!r}; write {{kind: binary}}."
            )
        self.options = {str(key): value for key, value in options.items() if value is not None}
        for key in self.options:
            if key not in KEYS:
                raise self._refusal(key, "is no key of a task", self._choice(key, KEYS))
        kind = self.options.get("kind")
        if kind not in tuple(KINDS):
            need = f"must be one of {', '.join(KINDS)}, got {kind!r}"
            raise self._refusal("kind", need, self._choice(str(kind), tuple(KINDS)))
        self.kind = KINDS[str(kind)]
        self.kind_name = str(kind)
        self.num_outputs = self._num_outputs()
        self.map_shape = self._map_shape()

    def task(self) -> Task:
        """Return the task."""
        own = self.options.get("loss")
        if own is None and self.kind.loss is None:
            raise self._refusal("loss", "is needed by kind custom", "give a _target_")
        index = self._ignore_index()
        loss: Any = self.kind.loss if own is None else self._own_loss(own, index)
        task = Task(
            self.name,
            self.num_outputs,
            loss,
            self._metrics(losses.target_rule(loss)),
            self.map_shape,
            batchable=own is None,
            count=loss.count if isinstance(loss, OwnLoss) else None,
            target=self._target(index),
        )
        options = {k: self.options.get(k) for k in ("class_weights", "label_smoothing")}
        return with_loss_options(task, f"data.tasks.{self.name}", **options)

    def _num_outputs(self) -> int:
        num = self.options.get("num_outputs", self.kind.num_outputs)
        if self.kind.has_classes and num is not None and (type(num) is not int or num < 2):
            need = f"must be at least 2, a class each, got {num!r}"
            raise self._refusal("num_outputs", need, "for yes or no take kind: binary")
        if type(num) is not int or num < 1:
            need = f"must be an integer of at least 1 for kind {self.kind_name}, got {num!r}"
            raise self._refusal("num_outputs", need, "say how many numbers the head returns")
        if self.kind.is_fixed and num != self.kind.num_outputs:
            need = f"must be {self.kind.num_outputs} for kind {self.kind_name}, got {num}"
            remedy = "take kind: multilabel" if self.kind_name == "binary" else "leave it out"
            raise self._refusal("num_outputs", need, remedy)
        return num

    def _map_shape(self) -> tuple[int, ...]:
        shape = self.options.get("map_shape", ())
        is_shape = isinstance(shape, (list, tuple)) and all(type(n) is int and n > 0 for n in shape)
        if not is_shape or (self.kind.is_dense and len(shape) != 2):
            need = f"must be [HEIGHT, WIDTH] for kind {self.kind_name}, got {shape!r}"
            raise self._refusal("map_shape", need, "give the size of the target")
        return tuple(shape)

    def _ignore_index(self) -> Any:
        index = self.options.get("ignore_index", ignored_index(self.options.get("loss")))
        types = (int,) if self.kind.has_classes or self.kind.dtype is None else (int, float)
        if index is not None and type(index) not in types:
            raise self._refusal("ignore_index", f"must be a number, got {index!r}", "correct it")
        return index

    def _own_loss(self, loss: Any, index: Any) -> OwnLoss:
        if not callable(loss):
            raise self._refusal("loss", f"must be a function, got {loss!r}", "give a _target_")
        like = self.kind.loss
        rule = rule_of_any_target(index) if like is None else losses.target_rule(like)
        assert rule is not None
        try:
            return OwnLoss(loss, rule, self.num_outputs, like=like, squeezed=self._is_squeezed)
        except ConfigError as error:
            raise ConfigError(f"`data.tasks.{self.name}`: {error}") from None

    @property
    def _is_squeezed(self) -> bool:
        """Whether a target lacks the axis of the one output."""
        is_number = self.kind_name == "regression" and not self.map_shape
        is_flag = self.kind.loss is losses.binary_cross_entropy
        return self.num_outputs == 1 and (is_number or is_flag)

    def _metrics(self, rule: losses.TargetRule | None) -> tuple[metrics.MetricSpec, ...]:
        own = self.options.get("metrics")
        if own is None:
            return self.kind.metrics(self.num_outputs)
        assert rule is not None
        flags = self.kind.loss is losses.binary_cross_entropy
        prepare = partial(_prepared, kind=self.kind, flags=flags, squeezed=self._is_squeezed)
        try:
            return metrics_of(own, prepare, rule.labelled, flags=flags)
        except ConfigError as error:
            raise ConfigError(f"`data.tasks.{self.name}`: {error}") from None

    def _target(self, index: float | None) -> TargetForm:
        kind = self.kind
        has_axis = not kind.has_classes and not self._is_squeezed
        shape = (self.num_outputs, *self.map_shape) if has_axis else self.map_shape
        if kind.loss is None:
            return TargetForm(self.name, None, None, index, index)
        return TargetForm(self.name, shape, kind.dtype, kind.no_label, index)

    def _choice(self, word: str, choices: tuple[str, ...]) -> str:
        close = difflib.get_close_matches(word, choices, n=1)
        return f"did you mean {close[0]}?" if close else f"choose from {', '.join(choices)}"

    def _refusal(self, key: str, requirement: str, remedy: str) -> ConfigError:
        end = "" if remedy.endswith("?") else "."
        return ConfigError(f"`data.tasks.{self.name}.{key}` {requirement}; {remedy}{end}")


def _prepared(prediction: Tensor, *, kind: Kind, flags: bool, squeezed: bool) -> Tensor:
    """A prediction as torchmetrics takes it: probabilities, which it would take some logits for."""
    if kind.has_classes:
        return prediction.double().softmax(1)
    values = prediction.squeeze(1) if squeezed else prediction
    return values.double().sigmoid() if flags else values
