"""Task losses: from predictions and targets of a batch to a scalar, the mean over what is labelled.

-1 means "no label" among classes and in binary tasks, NaN in regressions, 0 or NaN in maps of
depths and normals. Elements without a label change nothing, be their predictions NaN, and a batch
without any label has loss 0 with zero gradients. A target that is neither makes the loss NaN, on
every device alike and without waiting for it. :func:`target_rule` tells the rest of the package
what a loss takes, so that counts and checks follow the same rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks.labels import (
    NO_LABEL,
    check_shapes,
    has_depth,
    has_normal,
    is_infinite,
    is_labelled,
    is_number,
    no_class,
    no_probability,
)


@dataclass(frozen=True)
class TargetRule:
    """Targets that a loss takes."""

    needed: str
    """The values, in words; ``{last}`` is the last class, ``{void}`` stands for no label."""
    labelled: Callable[..., Tensor]
    """Maps a target to a mask of the elements that the loss averages over."""
    wrong: Callable[..., Tensor]
    """Maps a target and ``num_outputs`` to a mask of the elements that the loss cannot take."""


def target_rule(loss: Callable[..., Tensor]) -> TargetRule | None:
    """Return the rule of a loss of this package, None for a function of the user's.

    ``functools.partial`` of a loss with keywords has a rule too, and so has an object with a
    ``rule``.
    """
    if isinstance(getattr(loss, "rule", None), TargetRule):
        of_object: TargetRule = loss.rule  # type: ignore[attr-defined]
        return of_object
    if isinstance(loss, partial) and not loss.args:
        rule = target_rule(loss.func)
        return rule and _with_keywords(rule, loss.keywords)
    rules = (rule for function, rule in _RULES if function is loss)
    return next(rules, None)


def loss_of_package(loss: Any) -> Any:
    """Return the loss of this module inside a partial, or in whose place an object stands."""
    return loss.func if isinstance(loss, partial) else getattr(loss, "like", loss)


def is_never_negative(loss: Callable[..., Tensor]) -> bool:
    """Return whether a loss is known to be never negative, as those of this package are."""
    return target_rule(loss) is not None and getattr(loss, "never_negative", True)


def _with_keywords(rule: TargetRule, keywords: Mapping[str, object]) -> TargetRule:
    return replace(
        rule,
        needed=rule.needed.replace("{void}", str(keywords.get("void", NO_LABEL))),
        labelled=partial(rule.labelled, **keywords),
        wrong=partial(rule.wrong, **keywords),
    )


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of class logits, over the labelled examples of the batch.

    Args:
        prediction: Logits, shape ``[N, C]``.
        target: Class indices, any integer dtype, shape ``[N]``; -1 where there is none.

    Returns:
        The mean in nats, scalar; 0 with zero gradients when no example is labelled.

    Raises:
        ShapeError: If the target has another shape.
        ConfigError: If it holds no whole numbers.
    """
    return segmentation_cross_entropy(prediction, target)


def binary_cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of one logit per example, over the labelled examples of the batch.

    Args:
        prediction: Logits, shape ``[N, 1]``.
        target: 0 or 1 (or a probability), any dtype, shape ``[N]``; -1 where there is none.

    Returns:
        The mean in nats, scalar; 0 with zero gradients when no example is labelled.

    Raises:
        ShapeError: If the target has another shape.
    """
    values = prediction.squeeze(1)
    check_shapes(values, target)
    labelled = is_labelled(target)
    logits = values.masked_fill(~labelled, 0)
    usable = target.to(logits.dtype).masked_fill(no_probability(target, 1), torch.nan)
    terms = F.binary_cross_entropy_with_logits(logits, usable, reduction="none")
    return _mean(terms * labelled, labelled)


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of one number per example, or of a map of numbers, where there is one.

    Args:
        prediction: Shape ``[N, 1]``; of a dense task ``[N, C, ...]``.
        target: Shape ``[N]``; of a dense task the prediction's; NaN where there is none.

    Returns:
        The mean over the batch (and the map) in squared units of the target, scalar; 0 with zero
        gradients when there is no target.

    Raises:
        ShapeError: If the target has another shape.
    """
    values = prediction.squeeze(1) if prediction.dim() == 2 else prediction
    check_shapes(values, target)
    labelled = is_number(target)
    difference = (values - target.to(values.dtype)).masked_fill(~labelled, 0)
    return _mean(difference.square(), labelled)


def segmentation_cross_entropy(prediction: Tensor, target: Tensor, void: int = NO_LABEL) -> Tensor:
    """Cross-entropy of class logits per pixel, over the labelled pixels of the batch.

    Args:
        prediction: Logits, shape ``[N, C, H, W]``. Values at unlabelled pixels change nothing, be
            they NaN.
        target: Class indices, any integer dtype, shape ``[N, H, W]``.
        void: Index of pixels without a label.

    Returns:
        The mean in nats, scalar; 0 with zero gradients when no pixel is labelled.

    Raises:
        ShapeError: If the target has another shape.
        ConfigError: If it holds no whole numbers.
    """
    check_target(prediction.select(1, 0), target, classes=True)
    labelled = is_labelled(target, void)
    wrong = no_class(target, prediction.shape[1], void)
    logits = prediction.masked_fill(~labelled.unsqueeze(1), 0)
    classes = target.long().masked_fill(wrong, void)
    terms = F.cross_entropy(logits, classes, ignore_index=void, reduction="none")
    return _mean(terms.masked_fill(wrong, torch.nan), labelled)


def depth_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Absolute error of depth maps, over the pixels with a depth.

    Args:
        prediction: Depths, shape ``[N, 1, H, W]``. Values at pixels without a depth change
            nothing, be they NaN.
        target: Depths, any floating dtype, shape ``[N, 1, H, W]``; 0 or NaN where there is none.

    Returns:
        The mean in the unit of the target, scalar; 0 with zero gradients when no pixel has a depth.

    Raises:
        ShapeError: If the target has another shape.
    """
    check_shapes(prediction, target)
    valid = has_depth(target)
    difference = (prediction - target.to(prediction.dtype)).masked_fill(~valid, 0)
    return _mean(difference.abs(), valid)


def normal_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    r"""One minus the cosine between surface normals, over the pixels with a normal.

    .. math:: 1 - \frac{1}{P} \sum_p \langle \hat n_p / \lVert \hat n_p \rVert, n_p \rangle

    The targets are taken as they are: of unit length, they make it a cosine.

    Args:
        prediction: Vectors of any length, shape ``[N, 3, H, W]``; the zero vector has cosine 0.
            Below a length of 1e-6 the cosine shrinks with it, which bounds the gradient. Values at
            pixels without a normal change nothing, be they NaN.
        target: Unit normals, any floating dtype, shape ``[N, 3, H, W]``; all three components 0,
            or one of them NaN, where there is none.

    Returns:
        The mean, in [0, 2], scalar; 0 with zero gradients when no pixel has a normal.

    Raises:
        ShapeError: If the target has another shape.
    """
    check_shapes(prediction, target)
    valid = has_normal(target)
    directions = F.normalize(torch.where(valid, prediction, 0), dim=1, eps=1e-6)
    normals = torch.where(valid, target.to(prediction.dtype), 0)
    cosines = (directions * normals).sum(1, keepdim=True)
    return _mean((1 - cosines) * valid, valid)


def check_target(values: Tensor, target: Tensor, *, classes: bool) -> None:
    """Refuse a target of another shape than the values, and classes that are no integers.

    Raises:
        ShapeError: If the shapes differ.
        ConfigError: If ``classes`` and the target holds no whole numbers.
    """
    check_shapes(values, target)
    if classes and target.is_floating_point():
        raise ConfigError(
            f"the target must hold whole numbers (torch.int64), got {target.dtype}; write "
            "target.long()."
        )


def _mean(terms: Tensor, labelled: Tensor) -> Tensor:
    """Mean of the labelled terms, 0 without any; the others are 0.

    Masks instead of indexing: the number of labelled terms stays on the device.
    """
    return terms.sum() / labelled.sum().clamp(min=1)


_CLASSES = TargetRule("a class in 0..{last}, or {void} for no label", is_labelled, no_class)
_RULES: tuple[tuple[Callable[..., Tensor], TargetRule], ...] = (
    (cross_entropy, _CLASSES),
    (segmentation_cross_entropy, _CLASSES),
    (
        binary_cross_entropy,
        TargetRule("0 or 1, or -1 for no label", is_labelled, no_probability),
    ),
    (mean_squared_error, TargetRule("a number, or NaN for no label", is_number, is_infinite)),
    (depth_l1, TargetRule("a depth, or 0 or NaN for no label", has_depth, is_infinite)),
    (normal_cosine, TargetRule("a normal, or 0 or NaN for no label", has_normal, is_infinite)),
)
