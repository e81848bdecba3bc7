"""Class weights and label smoothing of the losses of classes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks.losses import (
    binary_cross_entropy,
    check_target,
    cross_entropy,
    loss_of_package,
    segmentation_cross_entropy,
    target_rule,
)
from rotograd_cli.tasks.task import Task

OPTIONS = ("class_weights", "label_smoothing")
"""Keywords of :func:`with_loss_options`."""
_LOSSES = (cross_entropy, segmentation_cross_entropy, binary_cross_entropy)


class WeightedCrossEntropy:
    r"""Cross-entropy of classes, or of 0 and 1, with class weights and smoothed labels.

    As ``torch.nn.CrossEntropyLoss``: with the smoothed distribution
    :math:`q_c = (1-\epsilon)[c = y] + \epsilon/C`, over the labelled elements,

    .. math:: \sum_n \sum_c -w_c\, q_{nc} \log p_{nc} \Big/ \sum_n w_{y_n}.

    A binary task has the classes 0 and 1, and a target between them is the probability of 1.

    Args:
        loss: The loss of this package in whose place it is.
        num_classes: Number of classes C; 2 for a binary task.
        class_weights: Weight of each class; None for 1.
        label_smoothing: :math:`\epsilon` in [0, 1).
    """

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        num_classes: int,
        class_weights: list[float] | None,
        label_smoothing: float,
    ) -> None:
        self.like = loss_of_package(loss)
        rule = target_rule(loss)
        assert rule is not None
        self.rule = rule
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        weights = class_weights or [1.0] * num_classes
        self._weights = torch.tensor(weights, dtype=torch.float64)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean, scalar; 0 with zero gradients without any label of positive weight."""
        flags = self.like is binary_cross_entropy
        values = prediction.squeeze(1) if flags else prediction
        check_target(values if flags else values.select(1, 0), target, classes=not flags)
        labelled, usable = self._masks(target)
        values = torch.where(usable if flags else usable.unsqueeze(1), values, 0)
        known = torch.where(usable, target, 0)
        if flags:  # two classes with logits 0 and x, and the probabilities of both
            values = torch.stack((torch.zeros_like(values), values), 1)
            known = torch.stack((1 - known.to(values.dtype), known.to(values.dtype)), 1)
        terms = F.cross_entropy(
            values,
            known if flags else known.long(),
            weight=self._weights_like(values),
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        terms = torch.where(usable, terms, torch.nan)
        num = self.count(target).to(terms.dtype)
        return torch.where(labelled, terms, 0).sum() / torch.where(num > 0, num, 1)

    def count(self, target: Tensor) -> Tensor:
        """Return the sum of the weights of the labels, which the mean divides by: float64."""
        _, usable = self._masks(target)
        known = torch.where(usable, target, 0)
        weights = self._weights_like(torch.empty((), dtype=torch.float64, device=target.device))
        if self.like is binary_cross_entropy:
            of_elements = weights[0] + known.double() * (weights[1] - weights[0])
        else:
            of_elements = weights[known.long()]
        return torch.where(usable, of_elements, 0).sum()

    def _masks(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Which elements are labelled, and which of them hold what can be a label."""
        labelled = self.rule.labelled(target)
        return labelled, labelled & ~self.rule.wrong(target, self.num_classes)

    def _weights_like(self, values: Tensor) -> Tensor:
        """The weights on a device, to which they are moved once."""
        if self._weights.device != values.device:
            self._weights = self._weights.to(values.device)
        return self._weights.to(values.dtype)


def with_loss_options(
    task: Task, where: str, *, class_weights: Any = None, label_smoothing: Any = None
) -> Task:
    """Return a task whose loss has these options.

    Args:
        task: With a loss of classes of this package, or of 0 and 1.
        where: Key of the options in messages.
        class_weights: A number per class, at least 0; None for 1 each.
        label_smoothing: In [0, 1); None for 0.

    Returns:
        The task; itself where there is no option.

    Raises:
        ConfigError: If its loss has no such options, or one has a wrong value.
    """
    if class_weights is None and label_smoothing is None:
        return task
    is_own = loss_of_package(task.loss) not in _LOSSES or not (
        task.loss in _LOSSES or isinstance(task.loss, partial)
    )
    if is_own:
        key = "class_weights" if label_smoothing is None else "label_smoothing"
        raise ConfigError(
            f"`{where}.{key}` belongs to this package's losses of classes, which task "
            f"{task.name!r} does not have; leave it out, or give it to your own loss."
        )
    smoothing = 0.0 if label_smoothing is None else label_smoothing
    if type(smoothing) not in (int, float) or not 0 <= smoothing < 1:
        raise ConfigError(
            f"`{where}.label_smoothing` must be a number in [0, 1), got {smoothing!r}; try 0.1."
        )
    num_classes = 2 if loss_of_package(task.loss) is binary_cross_entropy else task.num_outputs
    weights = None if class_weights is None else _checked_weights(class_weights, num_classes, where)
    loss = WeightedCrossEntropy(task.loss, num_classes, weights, float(smoothing))
    return replace(task, loss=loss, count=loss.count, batchable=False)


def with_all_loss_options(tasks: Sequence[Task], options: Mapping[str, Any]) -> tuple[Task, ...]:
    """Return tasks whose losses have the options of a section ``losses``.

    Args:
        tasks: The K tasks.
        options: By task, the keywords of :func:`with_loss_options`.

    Raises:
        ConfigError: If a task or an option is unknown, or an option refused.
    """
    names = [task.name for task in tasks]
    for name, values in options.items():
        if name not in names:
            raise ConfigError(
                f"`losses.{name}` is not a task of this run; choose from {', '.join(names)}."
            )
        is_mapping = isinstance(values, Mapping)
        unknown = [key for key in values if key not in OPTIONS] if is_mapping else [values]
        if unknown:
            raise ConfigError(
                f"`losses.{name}` takes {' and '.join(OPTIONS)}, got {unknown[0]!r}; write "
                f"+losses.{name}.label_smoothing=0.1."
            )
    return tuple(
        with_loss_options(task, f"losses.{task.name}", **options.get(task.name, {}))
        for task in tasks
    )


def _checked_weights(weights: Any, num: int, where: str) -> list[float]:
    is_list = isinstance(weights, (list, tuple))
    is_right = is_list and all(type(w) in (int, float) and 0 <= w < math.inf for w in weights)
    if not is_right or len(weights) != num or not any(weights):
        raise ConfigError(
            f"`{where}.class_weights` must be a list of {num} numbers, one per class, at least 0 "
            f"and not all 0, got {weights!r}; write "
            f"++{where}.class_weights=[{','.join('1' * num)}]."
        )
    return [float(weight) for weight in weights]
