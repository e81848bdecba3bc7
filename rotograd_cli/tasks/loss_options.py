"""Class weights and label smoothing of the losses of classes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rotograd_cli.errors import ConfigError, suggest
from rotograd_cli.tasks import losses
from rotograd_cli.tasks.own_losses import OwnLoss
from rotograd_cli.tasks.task import Task

OPTIONS = ("class_weights", "label_smoothing")
"""Keywords of :func:`with_loss_options`."""
_LOSSES = (losses.cross_entropy, losses.segmentation_cross_entropy, losses.binary_cross_entropy)


class WeightedCrossEntropy(OwnLoss):
    r"""Cross-entropy of classes, or of 0 and 1, with class weights and smoothed labels.

    As ``torch.nn.CrossEntropyLoss``: with the smoothed distribution
    :math:`q_c = (1-\epsilon)[c = y] + \epsilon/C`, over the labelled elements,

    .. math:: \sum_n \sum_c -w_c\, q_{nc} \log p_{nc} \Big/ \sum_n w_{y_n}.

    A binary task has the classes 0 and 1, and a target between them is the probability of 1.

    Args:
        loss: The loss of this package that it replaces.
        num_outputs: Second axis of the prediction.
        class_weights: Weight of each class; of a binary task, those of 0 and 1.
        label_smoothing: :math:`\epsilon` in [0, 1).
    """

    never_negative = True
    weight: Tensor

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        num_outputs: int,
        class_weights: Sequence[float],
        label_smoothing: float,
    ) -> None:
        like = losses.loss_of_package(loss)
        rule = losses.target_rule(loss)
        assert rule is not None
        self.is_binary = like is losses.binary_cross_entropy
        super().__init__(self._per_label, rule, num_outputs, like=like, squeezed=self.is_binary)
        self.weight = torch.tensor(class_weights, dtype=torch.float64)
        self.label_smoothing = label_smoothing

    def count(self, target: Tensor) -> Tensor:
        """Return the sum of the weights of the labels, which the mean divides by: float64."""
        _, usable = self._masks(target)
        known = torch.where(usable, target, 0)
        weights = self._weights_on(target.device)
        if self.is_binary:
            of_elements = weights[0] + known.double() * (weights[1] - weights[0])
        else:
            of_elements = weights[known.long()]
        return torch.where(usable, of_elements, 0).sum()

    def _per_label(self, values: Tensor, known: Tensor) -> Tensor:
        if self.is_binary:  # two classes with logits 0 and x, and the probabilities of both
            losses.check_target(values, known, classes=False)
            known = known.to(values.dtype)
            known = torch.stack((1 - known, known), 1)
            values = torch.stack((torch.zeros_like(values), values), 1)
        else:
            losses.check_target(values.select(1, 0), known, classes=True)
            known = known.long()
        return F.cross_entropy(
            values,
            known,
            weight=self._weights_on(values.device).to(values.dtype),
            label_smoothing=self.label_smoothing,
            reduction="none",
        )

    def _weights_on(self, device: torch.device) -> Tensor:
        """Return the weights on a device, to which they are moved once."""
        self.weight = self.weight.to(device)
        return self.weight


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
    loss: Any = task.loss.func if isinstance(task.loss, partial) else task.loss
    if loss not in _LOSSES:
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
    num_classes = 2 if loss is losses.binary_cross_entropy else task.num_outputs
    weights = [1.0] * num_classes
    if class_weights is not None:
        weights = _checked_weights(class_weights, num_classes, where)
    weighted = WeightedCrossEntropy(task.loss, task.num_outputs, weights, float(smoothing))
    return replace(task, loss=weighted, count=weighted.count, batchable=False)


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
                f"`losses.{name}` is not a task of this run; {suggest(name, names, 'losses.')}"
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
    numbers = weights if isinstance(weights, (list, tuple)) else ()
    is_right = all(type(w) in (int, float) and 0 <= w < math.inf for w in numbers)
    if not is_right or len(numbers) != num or not any(numbers):
        raise ConfigError(
            f"`{where}.class_weights` must be a list of {num} numbers, one per class, at least 0 "
            f"and not all 0, got {weights!r}; write "
            f"++{where}.class_weights=[{','.join('1' * num)}]."
        )
    return [float(number) for number in numbers]
