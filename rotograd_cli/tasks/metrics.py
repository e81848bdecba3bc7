r"""Metrics over a split, their statistics over tasks, and :math:`\Delta_m`, the relative gain."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar
from typing import Protocol as Interface

import torch
from torch import Tensor

from rotograd_cli.tasks import dense_metrics as accumulators
from rotograd_cli.tasks import element_errors

Key = TypeVar("Key")
Better = Literal["higher", "lower"]
Protocol = Literal["exact", "mtan_batch"]
"""How depth and normal metrics are averaged.

``exact``: every valid pixel of the split has the same weight. ``mtan_batch``: as in the code of
MTAN and its descendants (CAGrad, Nash-MTL, FAMO), the metric of each pair of consecutive images,
averaged over the pairs. The two are not comparable: see :mod:`rotograd_cli.tasks.dense_metrics`."""


_first = operator.itemgetter(0)


def _itself(value: Any) -> Tensor:
    result: Tensor = value
    return result


class Metric(Interface):
    """What accumulates a metric over a split: an ``Accumulator``, or a metric of torchmetrics."""

    def to(self, device: torch.device) -> "Metric":
        """Move the metric to a device."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""

    def compute(self) -> Any:
        """Return the metrics over all batches; torchmetrics adds up those of all ranks."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric of a task: how to build it and how to read it.

    Accumulation covers the split and is never the mean of batch values. It sees targets without a
    label (:mod:`rotograd_cli.tasks.labels`) and has to leave them out, as those of this package do;
    it must not wait for the device at every batch. Metrics of a task with the very same ``create``
    and ``prepare`` share one accumulator, which sees every batch once.
    """

    name: str
    """Last part of the key ``split/task/metric``."""
    better: Better
    """Whether a higher or a lower value is better."""
    create: Callable[[], Metric]
    """Makes a fresh metric."""
    prepare: Callable[[Tensor], Tensor]
    """Turns a head's output into what the metric takes."""
    percent: bool = False
    """Whether tables print the value times 100."""
    value: Callable[[Any], Tensor] = _itself
    """Reads the number, a scalar, from what ``compute()`` returns."""
    protocol: str | None = None
    """How it averages, where there are several ways whose values are not comparable."""


def accuracy(num_classes: int) -> MetricSpec:
    """Share of labelled examples whose largest logit is at the target class, in [0, 1].

    NaN when no example is labelled (-1: no label), and when a target is no class.
    """
    hits = partial(element_errors.class_hits, num_classes=num_classes)
    create = partial(accumulators.SplitMeans, hits, 1)
    return MetricSpec("accuracy", "higher", create, _classes, percent=True, value=_first)


def f1() -> MetricSpec:
    """F1 of the positive class at threshold 0.5, from counts over the split, in [0, 1].

    0 when nothing is positive, neither predicted nor there. NaN when no example is labelled (-1: no
    label), and when a target is neither 0 nor 1.
    """

    def value(means: Tensor) -> Tensor:
        both, predicted, true = means
        positive = predicted + true
        return torch.where(positive == 0, 0, 2 * both / positive)

    def prepare(logits: Tensor) -> Tensor:
        return (logits > 0).squeeze(1).long()

    create = partial(accumulators.SplitMeans, element_errors.flag_counts, 3)
    return MetricSpec("f1", "higher", create, prepare, percent=True, value=value)


def mse() -> MetricSpec:
    """Mean squared error over the split (and the maps of a dense task), accumulated in float64.

    Over the targets that are not NaN; NaN when all are.
    """

    def prepare(prediction: Tensor) -> Tensor:
        return (prediction.squeeze(1) if prediction.dim() == 2 else prediction).double()

    create = partial(accumulators.SplitMeans, element_errors.squared_errors, 1)
    return MetricSpec("mse", "lower", create, prepare, value=_first)


def segmentation(num_classes: int, void: int = -1) -> tuple[MetricSpec, ...]:
    """Mean intersection over union and pixel accuracy, from one confusion matrix of the split.

    Args:
        num_classes: Number of classes C.
        void: Target of pixels without a label; they take no part.

    Returns:
        ``miou``, the mean over the classes that occur in predictions or targets, and
        ``pixel_accuracy``, both in [0, 1], NaN when no pixel is labelled.
    """
    create = partial(accumulators.ConfusionMatrix, num_classes, void)
    return _sharing(create, _classes, ("miou", "pixel_accuracy"), "higher", percent=True)


def depth(protocol: Protocol) -> tuple[MetricSpec, ...]:
    """Absolute and relative error over the pixels with a depth.

    Args:
        protocol: How pixels are averaged.

    Returns:
        ``abs_err``, mean of abs(p - t) in the unit of the target (metres), and ``rel_err``, mean of
        abs(p - t) / t; NaN when no pixel has a depth.
    """
    means = accumulators.SplitMeans if protocol == "exact" else accumulators.PairMeans
    create = partial(means, element_errors.depth_errors, 2)
    return _sharing(create, _itself, ("abs_err", "rel_err"), "lower", protocol=protocol)


def normals(protocol: Protocol) -> tuple[MetricSpec, ...]:
    """Angle between predicted and true surface normals, over the pixels with a normal.

    Args:
        protocol: How pixels are averaged, and how the angle is computed.

    Returns:
        ``angle_mean`` and ``angle_median`` in degrees; ``within_11.25``, ``within_22.5`` and
        ``within_30``, the share of pixels with a smaller angle, in [0, 1]. NaN when no pixel has a
        normal.
    """
    create = accumulators.SplitAngles if protocol == "exact" else accumulators.PairAngles
    sharing = partial(_sharing, create, _itself, protocol=protocol)
    angles = sharing(("angle_mean", "angle_median"), "lower")
    shares = ("within_11.25", "within_22.5", "within_30")
    return angles + sharing(shares, "higher", percent=True, start=len(angles))


def _classes(logits: Tensor) -> Tensor:
    return logits.argmax(1)


def _sharing(
    create: Callable[[], Metric],
    prepare: Callable[[Tensor], Tensor],
    names: Sequence[str],
    better: Better,
    *,
    percent: bool = False,
    start: int = 0,
    protocol: Protocol | None = None,
) -> tuple[MetricSpec, ...]:
    """Metrics that one accumulator computes as the entries of a vector, from ``start`` on."""
    return tuple(
        MetricSpec(
            name, better, create, prepare, percent, operator.itemgetter(start + index), protocol
        )
        for index, name in enumerate(names)
    )


ROUNDING = 1e-6
"""A loss that is never negative may come out below 0 by less than this."""

SMALLEST_LOSS = torch.finfo(torch.float32).eps
"""Smallest loss in a geometric mean, 1.2e-7: losses are measured in float32."""


def geometric_mean(losses: Mapping[Any, float]) -> float:
    r"""Geometric mean of the task losses, :math:`(\prod_k L_k)^{1/K}`.

    Rescaling any loss by a constant rescales the result by a constant, so that comparing epochs
    does not depend on the units of the tasks. Negative losses have no geometric mean: the result is
    NaN. A loss counts as at least :data:`SMALLEST_LOSS`: below it the mean of float32 losses says
    nothing, and a task that is solved would decide alone. So does what rounding takes below 0, down
    to -1e-6.

    Args:
        losses: Loss of each task.

    Returns:
        The mean; NaN when a loss is negative or NaN.

    Examples:
        >>> round(geometric_mean({"a": 2.0, "b": 8.0}), 6)
        4.0
    """
    values = torch.tensor(list(losses.values()), dtype=torch.float64)
    is_small = (values < SMALLEST_LOSS) & (values > -ROUNDING)
    return float(torch.where(is_small, SMALLEST_LOSS, values).log().mean().exp())


def delta_m(
    values: Mapping[Key, float], baseline: Mapping[Key, float], better: Mapping[Key, Better]
) -> float:
    r"""Mean relative gain over a baseline in percent, positive when better.

    .. math:: \Delta_m = \frac{100}{M} \sum_i (-1)^{l_i} \frac{m_i - s_i}{|s_i|},

    with :math:`l_i = 1` where lower is better. For a task with several metrics call it per task
    first and average the tasks (the paper's convention).

    Args:
        values: Metrics m of a model.
        baseline: Metrics s with the same keys, none of them 0.
        better: Direction of each metric.

    Returns:
        The gain in percent.

    Raises:
        KeyError: If a key is missing from ``baseline`` or ``better``.
        ZeroDivisionError: If a baseline value is 0.

    References:
        Javaloy and Valera, ICLR 2022, section 5; Maninis et al., CVPR 2019.

    Examples:
        >>> better = {"acc": "higher", "mse": "lower"}
        >>> delta_m({"acc": 0.9, "mse": 2.0}, {"acc": 0.8, "mse": 4.0}, better)
        31.25
    """
    gains = [
        (1 if better[key] == "higher" else -1) * (value - baseline[key]) / abs(baseline[key])
        for key, value in values.items()
    ]
    return round(100 * sum(gains) / len(gains), 10)


@dataclass(frozen=True)
class Statistic:
    """A number that sums up the same metric of several tasks."""

    name: str
    """Last part of the key ``split/statistic``, e.g. ``min_f1``."""
    better: Better | None
    """Direction of the metric; None for the spread, which has none."""
    percent: bool
    """Whether tables print the value times 100."""
    of: Callable[[Tensor], Tensor]
    """Maps the values of the K tasks, shape ``[K]``, to the statistic, a scalar."""
    protocol: str | None = None
    """That of the metric."""


OVER_TASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "min": torch.amin,
    "median": lambda values: torch.quantile(values, 0.5),
    "mean": torch.mean,
    "max": torch.amax,
    "std": lambda values: values.std(correction=0),
}
"""Statistics of the values of the K tasks, shape ``[K]``, by name."""


def statistics(leading: Sequence[MetricSpec | None]) -> tuple[Statistic, ...]:
    """Return the statistics over tasks that share their leading metric.

    Args:
        leading: Leading metric of each of the K tasks; None for a task without metrics.

    Returns:
        Minimum, median (of an even K the mean of the middle two, unlike ``torch.median``), mean,
        maximum and standard deviation (that of the population: divided by K) of the shared metric;
        none unless all tasks lead with the same metric, direction and protocol. A NaN among the
        values makes all of them NaN. A single task has them too (its metric, and 0): the
        single-task networks of a setting select their epoch by the same key as the others.

    Examples:
        >>> [statistic.name for statistic in statistics([f1(), f1()])]
        ['min_f1', 'median_f1', 'mean_f1', 'max_f1', 'std_f1']
        >>> statistics([f1(), mse()])
        ()
    """
    kinds = {spec and (spec.name, spec.better, spec.percent, spec.protocol) for spec in leading}
    first = leading[0] if leading else None
    if len(kinds) > 1 or first is None:
        return ()
    return tuple(
        Statistic(
            f"{name}_{first.name}",
            None if name == "std" else first.better,
            first.percent,
            of,
            first.protocol,
        )
        for name, of in OVER_TASKS.items()
    )
