"""Which kind a task is: the one place that decides how its predictions are shown."""

from typing import Any, Literal

from torch import Tensor

from rotograd_cli.tasks import Task, losses

Kind = Literal[
    "class", "binary", "labels", "number", "class_map", "depth_map", "normal_map", "number_map"
]
"""One answer per example: a class, yes or no, several times yes or no, one or several numbers; or a
map of such answers."""

_KINDS: tuple[tuple[Any, Kind, Kind], ...] = (
    (losses.cross_entropy, "class", "class_map"),
    (losses.segmentation_cross_entropy, "class", "class_map"),
    (losses.binary_cross_entropy, "binary", "class_map"),
    (losses.mean_squared_error, "number", "number_map"),
    (losses.depth_l1, "number", "depth_map"),
    (losses.normal_cosine, "number", "normal_map"),
)
"""By loss: the kind without and with a ``map_shape``."""


def kind_of(task: Task, target: Tensor | None = None) -> Kind:
    """Return the kind of a task.

    The losses of this package tell it. With a loss of the user's, one whole number per example or
    pixel is a class (of a single output: yes or no), and so is what F1 is measured of. Where F1 is
    measured of several outputs with a target each, every output is yes or no. Anything else are
    numbers.

    Args:
        task: The task.
        target: A target of it; without one, a task with a loss of the user's has numbers.
    """
    is_map = len(task.map_shape) > 0
    loss = losses.loss_of_package(task.loss)
    for known, scalar, dense in _KINDS:
        if loss is known:
            if loss is losses.binary_cross_entropy and task.num_outputs > 1:
                return "number_map" if is_map else "labels"
            return dense if is_map else scalar
    return _by_shape(task, target, is_map)


def _by_shape(task: Task, target: Tensor | None, is_map: bool) -> Kind:
    has_f1 = any(metric.name == "f1" for metric in task.metrics)
    has_one_each = target is None or tuple(target.shape[1:]) == task.map_shape
    has_flags = target is not None and target.shape[1:] == (task.num_outputs,)
    if has_f1 and has_flags and not is_map:
        return "labels" if task.num_outputs > 1 else "binary"
    if (has_f1 and has_one_each) or _has_classes(task, target):
        scalar: Kind = "class" if task.num_outputs > 1 else "binary"
        return "class_map" if is_map else scalar
    return "number_map" if is_map else "number"


def _has_classes(task: Task, target: Tensor | None) -> bool:
    """Whether the target is one whole number per example or pixel."""
    if target is None or target.is_floating_point():
        return False
    return tuple(target.shape[1:]) == task.map_shape
