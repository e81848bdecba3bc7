"""Predictions of single answers in words: a class, yes or no, numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.pictures.kinds import Kind
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.labels import is_labelled

MAX_NUMBERS = 3


@dataclass(frozen=True)
class Answer:
    """Prediction of one task for one example, beside the truth."""

    task: str
    prediction: str
    truth: str | None
    """None where the example has no label."""
    right: bool | None
    """Whether they agree; None for numbers, and without a label."""

    def __str__(self) -> str:
        """Return ``left 3 (7)``, or ``left 7`` where that is right.

        Examples:
            >>> str(Answer("left", "3", "7", False)), str(Answer("left", "7", "7", True))
            ('left 3 (7)', 'left 7')
        """
        beside = "" if self.right else f" ({self.truth if self.truth is not None else '?'})"
        return f"{self.task} {self.prediction}{beside}"


def answer(task: Task, kind: Kind, prediction: Tensor, target: Tensor | None) -> Answer:
    """Put one example's prediction into words.

    Args:
        task: The task.
        kind: Its kind, not that of a map.
        prediction: The head's output for one example, shape ``[num_outputs]``.
        target: Its target, a scalar or shape ``[num_outputs]``; None where there is none.
    """
    if kind == "labels":
        return _labels(task.name, prediction, target)
    predicted = "nan" if prediction.isnan().any() else _PREDICTION[kind](prediction)
    if target is None or not _has_label(kind, target):
        return Answer(task.name, predicted, None, None)
    truth = _TRUTH[kind](target)
    decided = kind == "class" or (kind == "binary" and truth in ("yes", "no"))
    return Answer(task.name, predicted, truth, predicted == truth if decided else None)


def _labels(name: str, prediction: Tensor, target: Tensor | None) -> Answer:
    """Put several answers of yes or no into words: which outputs are yes.

    They are right if all are that have a label.
    """
    predicted = "nan" if prediction.isnan().any() else _outputs(prediction > 0)
    if target is None or not is_labelled(target).any():
        return Answer(name, predicted, None, None)
    labelled = is_labelled(target)
    if not ((target == 0) | (target == 1) | ~labelled).all():  # probabilities
        return Answer(name, predicted, _numbers(target.to(torch.float64)), None)
    truth = _outputs((target == 1) & labelled)
    if not labelled.all():
        truth += f"; unknown: {_outputs(~labelled)}"
    agree = (prediction > 0) == (target == 1)
    right = bool((agree | ~labelled).all()) and not bool(prediction.isnan().any())
    return Answer(name, predicted, truth, right)


def _outputs(flags: Tensor) -> str:
    """Return the positions of what is true, as a set.

    Examples:
        >>> _outputs(torch.tensor([True, False, True])), _outputs(torch.tensor([False]))
        ('{0, 2}', '{}')
    """
    return f"{{{', '.join(map(str, flags.nonzero().flatten().tolist()))}}}"


def _has_label(kind: Kind, target: Tensor) -> bool:
    labelled = ~target.isnan() if kind == "number" else is_labelled(target)
    return bool(labelled.any())


def _class(logits: Tensor) -> str:
    return str(int(logits.argmax()))


def _flag(logits: Tensor) -> str:
    return "yes" if float(logits.reshape(-1)[0]) > 0 else "no"


def _true_flag(target: Tensor) -> str:
    value = float(target.reshape(-1)[0])
    return {0.0: "no", 1.0: "yes"}.get(value, _number(value))


def _numbers(values: Tensor) -> str:
    shown = [_number(float(value)) for value in values.reshape(-1)[:MAX_NUMBERS]]
    more = ", ..." if values.numel() > MAX_NUMBERS else ""
    return ", ".join(shown) + more


def _number(value: float) -> str:
    """Return three digits, or all of those before the point; ``?`` where there is no label."""
    if math.isnan(value):
        return "?"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


_PREDICTION: dict[Kind, Callable[[Tensor], str]] = {
    "class": _class,
    "binary": _flag,
    "number": _numbers,
}
_TRUTH: dict[Kind, Callable[[Tensor], str]] = {
    "class": lambda target: str(int(target)),
    "binary": _true_flag,
    "number": lambda target: _numbers(target.to(torch.float64)),
}
