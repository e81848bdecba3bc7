"""Metrics of the user's: those of torchmetrics, over what is labelled."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks.metrics import Better, MetricSpec


def metrics_of(
    metrics: Any,
    prepare: Callable[[Tensor], Tensor],
    labelled: Callable[[Tensor], Tensor],
    *,
    flags: bool,
) -> tuple[MetricSpec, ...]:
    """Return the metrics that a task declares.

    Args:
        metrics: By name: a :class:`MetricSpec`, which gets the name, a metric of torchmetrics, or a
            function without arguments that returns one; or one or more :class:`MetricSpec`.
        prepare: Turns a head's output into what torchmetrics takes.
        labelled: Maps a target to a mask of its labelled elements.
        flags: Whether targets are 0 or 1, which torchmetrics takes as integers alone.

    Raises:
        ConfigError: If one is something else, or does not say whether higher is better.
    """
    listed = _flat(metrics)
    if all(isinstance(each, MetricSpec) for each in listed):
        return tuple(listed)
    if not isinstance(metrics, Mapping):
        raise ConfigError(
            f"`metrics` must name metrics, got {metrics!r}; write metrics: {{NAME: {{_target_: "
            "torchmetrics.CLASS}}."
        )
    result = []
    for name, metric in metrics.items():
        if isinstance(metric, MetricSpec):
            result.append(replace(metric, name=str(name)))
            continue
        example = metric() if isinstance(metric, (type, partial)) else metric
        create = partial(on_labelled, example, labelled, flags=flags)
        result.append(MetricSpec(str(name), _better(str(name), example), create, prepare))
    return tuple(result)


def on_labelled(metric: Any, labelled: Callable[[Tensor], Tensor], *, flags: bool) -> Any:
    """Return a copy of a metric of torchmetrics that sees the labelled elements of every batch.

    They are picked by index, which waits for the device once per batch of an evaluation. Of several
    numbers per example (``[N, D]``) it sees the examples that have all of them.

    Args:
        metric: The metric.
        labelled: Maps a target to a mask of its labelled elements.
        flags: Whether targets are 0 or 1, which torchmetrics takes as integers alone.
    """
    result = copy.deepcopy(metric)
    update_all = result.update

    def update(prediction: Tensor, target: Tensor) -> None:
        chosen = labelled(target)
        if chosen.dim() == 2:
            chosen = chosen.all(1)
        elif chosen.dim() > 2 and chosen.shape[1] == 1:  # a vector counts whole
            chosen = chosen.squeeze(1)
        target = _rows(target, chosen)
        if len(target) == 0:
            return
        if flags and bool((target == target.round()).all()):  # no probabilities
            target = target.long()
        update_all(_rows(prediction, chosen), target)

    result.update = update
    return result


def _flat(metrics: Any) -> list[Any]:
    if not isinstance(metrics, (list, tuple)):
        return [metrics]
    return [each for part in metrics for each in _flat(part)]


def _rows(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the chosen elements as rows; the second axis of maps comes last."""
    has_channels = 1 < chosen.dim() < values.dim()
    return (values.movedim(1, -1) if has_channels else values)[chosen]


def _better(name: str, metric: Any) -> Better:
    if not all(callable(getattr(metric, method, None)) for method in ("update", "compute", "to")):
        raise ConfigError(
            f"`metrics.{name}` must be a metric of torchmetrics or rotograd_cli.tasks.metrics, got "
            f"{type(metric).__name__}; its _target_ must return one."
        )
    higher = getattr(metric, "higher_is_better", None)
    if higher is None:
        raise ConfigError(
            f"`metrics.{name}` must say whether a higher value is better, but "
            f"{type(metric).__name__} has no higher_is_better; set it in a subclass."
        )
    return "higher" if higher else "lower"
