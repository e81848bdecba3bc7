"""Metrics of the user's: those of torchmetrics, which see what is labelled alone."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks.metrics import Better, MetricSpec


class OnLabelled:
    """A metric of torchmetrics that sees the labelled elements of every batch.

    They are picked by index, which waits for the device once per batch of an evaluation. Of several
    numbers per example (``[N, D]``) it sees the examples of which all are there.

    Args:
        metric: The metric.
        labelled: Maps a target to a mask of its labelled elements.
        flags: Whether targets are 0 or 1, which torchmetrics takes as integers alone.
    """

    def __init__(
        self, metric: Any, labelled: Callable[[Tensor], Tensor], *, flags: bool = False
    ) -> None:
        self.metric = metric
        self.labelled = labelled
        self.flags = flags

    @property
    def distributed_available_fn(self) -> Any:
        """Function of torchmetrics that says whether other processes have examples too."""
        return self.metric.distributed_available_fn

    @distributed_available_fn.setter
    def distributed_available_fn(self, function: Any) -> None:
        self.metric.distributed_available_fn = function

    def to(self, device: torch.device) -> "OnLabelled":
        """Move the metric to a device."""
        self.metric.to(device)
        return self

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add the labelled elements of a batch, if there are any."""
        chosen = self.labelled(target)
        if chosen.dim() == 2:
            chosen = chosen.all(1)
        elif chosen.dim() > 2 and chosen.shape[1] == 1:  # a vector counts whole
            chosen = chosen.squeeze(1)
        target = _chosen(target, chosen)
        if len(target) == 0:
            return
        if self.flags and bool((target == target.round()).all()):  # no probabilities
            target = target.long()
        self.metric.update(_chosen(prediction, chosen), target)

    def compute(self) -> Any:
        """Return the metric over all batches of all ranks."""
        return self.metric.compute()


def _chosen(values: Tensor, chosen: Tensor) -> Tensor:
    """Rows of the elements that were chosen, whose second axis comes last."""
    has_channels = 1 < chosen.dim() < values.dim()
    return (values.movedim(1, -1) if has_channels else values)[chosen]


def metrics_of(
    metrics: Any,
    prepare: Callable[[Tensor], Tensor],
    labelled: Callable[[Tensor], Tensor],
    **options: Any,
) -> tuple[MetricSpec, ...]:
    """Return the metrics that a task declares.

    Args:
        metrics: By name: a :class:`MetricSpec`, which gets the name, a metric of torchmetrics, or a
            function without arguments that returns one; or a list of :class:`MetricSpec`.
        prepare: Turns a head's output into what torchmetrics takes.
        labelled: Maps a target to a mask of its labelled elements.
        **options: Of :class:`OnLabelled`.

    Raises:
        ConfigError: If one is something else, or does not say whether higher is better.
    """
    if isinstance(metrics, MetricSpec):
        return (metrics,)
    if isinstance(metrics, (list, tuple)):
        nested = (each if isinstance(each, (list, tuple)) else [each] for each in metrics)
        specs = tuple(spec for each in nested for spec in each)
        if all(isinstance(spec, MetricSpec) for spec in specs):
            return specs
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
        create = partial(_fresh, example, labelled, **options)
        result.append(MetricSpec(str(name), _better(str(name), example), create, prepare))
    return tuple(result)


def _fresh(metric: Any, labelled: Callable[[Tensor], Tensor], **options: Any) -> OnLabelled:
    return OnLabelled(copy.deepcopy(metric), labelled, **options)


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
