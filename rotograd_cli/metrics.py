r"""Metrics over a whole split, and :math:`\Delta_m`, the relative gain over a baseline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class MetricSpec:
    """A metric of a task: how to build it and how to read it.

    Accumulation is torchmetrics' and covers the split, never the mean of batch values. Its checks
    of values are off: they wait for the device at every batch.
    """

    name: str
    """Last part of the key ``split/task/metric``."""
    better: Better
    """Whether a higher or a lower value is better."""
    create: Callable[[], "Metric"]
    """Makes a fresh torchmetrics metric."""
    prepare: Callable[[Tensor], Tensor]
    """Turns a head's output into what the metric takes."""
    percent: bool = False
    """Whether tables print the value times 100."""


def accuracy(num_classes: int) -> MetricSpec:
    """Share of examples whose largest logit is at the target class, in [0, 1]."""

    def create() -> "Metric":
        from torchmetrics.classification import MulticlassAccuracy  # slow import

        return MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    return MetricSpec("accuracy", "higher", create, lambda logits: logits.argmax(1), percent=True)


def f1() -> MetricSpec:
    """F1 of the positive class at threshold 0.5, from counts over the split, in [0, 1]."""

    def create() -> "Metric":
        from torchmetrics.classification import BinaryF1Score

        return BinaryF1Score(validate_args=False)

    # decided here: torchmetrics takes logits that happen to lie in [0, 1] for probabilities
    return MetricSpec("f1", "higher", create, lambda logits: (logits > 0).squeeze(1).long(), True)


def mse() -> MetricSpec:
    """Mean squared error over the split (and the maps of a dense task), accumulated in float64."""

    def create() -> "Metric":
        from torchmetrics.regression import MeanSquaredError

        return MeanSquaredError().set_dtype(torch.float64)

    def prepare(prediction: Tensor) -> Tensor:
        values = prediction.squeeze(1) if prediction.dim() == 2 else prediction
        return values.double().contiguous()  # torchmetrics flattens by view; maps may be NHWC

    return MetricSpec("mse", "lower", create, prepare)


def geometric_mean(losses: Mapping[str, float]) -> float:
    r"""Geometric mean of the task losses, :math:`(\prod_k L_k)^{1/K}`.

    Rescaling any loss by a constant rescales the result by a constant, so that comparing epochs
    does not depend on the units of the tasks. Negative losses have no geometric mean: the result is
    NaN.

    Args:
        losses: Loss of each task.

    Returns:
        The mean; 0 when a loss is 0, NaN when one is negative or NaN.

    Examples:
        >>> round(geometric_mean({"a": 2.0, "b": 8.0}), 6)
        4.0
    """
    values = torch.tensor(list(losses.values()), dtype=torch.float64)
    return float(values.log().mean().exp())


def delta_m(
    values: Mapping[str, float], baseline: Mapping[str, float], better: Mapping[str, Better]
) -> float:
    r"""Mean relative gain over a baseline in percent, positive when better.

    .. math:: \Delta_m = \frac{100}{M} \sum_i (-1)^{l_i} \frac{m_i - s_i}{s_i},

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
        (1 if better[key] == "higher" else -1) * (value - baseline[key]) / baseline[key]
        for key, value in values.items()
    ]
    return round(100 * sum(gains) / len(gains), 10)
