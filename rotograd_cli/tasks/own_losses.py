"""Losses of the user's, averaged over the elements with a label.

A loss that gives one number per example or element is averaged here over those with a label. The
losses of torch (``torch.nn.CrossEntropyLoss()``, ``torch.nn.functional.l1_loss``) are such losses,
whatever mean they would take themselves. A loss that gives one number for the batch is used as it
is: a missing label makes it NaN, which is refused wherever it is noticed, never averaged.
"""

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.tasks.labels import is_labelled, is_number
from rotograd_cli.tasks.losses import TargetRule

_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
_FUNCTIONS_OF_CLASSES = (F.cross_entropy, F.nll_loss)


class OwnLoss:
    """A loss of the user's, over what is labelled.

    Args:
        loss: Takes predictions and targets.
        rule: Which elements are labelled, and which values the loss cannot take.
        num_outputs: Second axis of the prediction.
        like: Loss of this package that it replaces; None for none.
        squeezed: Whether a prediction ``[N, 1]`` is passed on as ``[N]``.

    Raises:
        ConfigError: If the loss is a sum, or has parameters, which nothing would train.
    """

    never_negative = False

    def __init__(
        self,
        loss: Callable[..., Any],
        rule: TargetRule,
        num_outputs: int,
        *,
        like: Callable[..., Tensor] | None,
        squeezed: bool,
    ) -> None:
        self.rule = rule
        self.like = like
        self.num_outputs = num_outputs
        self.squeezed = squeezed
        self.terms = _per_element(loss)
        is_averaged = self.terms is not loss
        self.weight = _class_weights(loss) if is_averaged else None
        self.is_batchmean = is_averaged and _option(loss, "reduction") == "batchmean"
        self.is_of_whole_batch = False  # until it has returned a single number

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the labelled elements, scalar; 0 with zero gradients without any."""
        labelled, usable = self._masks(target)
        values = prediction.squeeze(1) if self.squeezed else prediction
        values = torch.where(_as_of(usable, values), values, 0)
        known = torch.where(_widened(usable, target), target, 0)
        if known.is_floating_point():
            known = known.to(values.dtype)
        if isinstance(self.terms, nn.Module):
            self.terms.to(values.device)
        terms: Any = self.terms(values, known)
        if not isinstance(terms, Tensor):
            return terms  # type: ignore[no-any-return]  # the dry pass refuses it
        if not terms.dim():
            self.is_of_whole_batch = True
            return torch.where(usable.all(), terms, torch.nan)
        if self.is_batchmean:  # of torch's kl_div: examples count once, whatever their size
            terms = terms.reshape(len(terms), -1).sum(1)
        counted = _of_terms(labelled, terms)
        terms = torch.where(_of_terms(usable, terms), terms, torch.nan)
        num = counted.sum() if self.weight is None else self.count(target).to(terms.dtype)
        mean = torch.where(counted, terms, 0).sum() / torch.where(num > 0, num, 1)
        if terms.dim() == 1 and labelled.dim() > 1:  # an example counts whole, or not at all
            elements = labelled.flatten(1)
            is_whole = (elements.any(1) == elements.all(1)).all()
            mean = torch.where(is_whole, mean, torch.nan)
        return mean

    def count(self, target: Tensor) -> Tensor:
        """Return the number of labelled elements, or the sum of their classes' weights."""
        labelled, usable = self._masks(target)
        if self.weight is None or target.is_floating_point():
            return labelled.sum()
        weights = self.weight.to(target.device)[torch.where(usable, target, 0).long()]
        return torch.where(labelled, weights, 0).sum()

    def _masks(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return which elements are labelled, and which of those the loss can take.

        Of a custom loss, whose elements are not known, whole examples count.
        """
        labelled = self.rule.labelled(target)
        if self.like is None:
            labelled = labelled.reshape(len(target), -1).all(1)
            return labelled, labelled
        return labelled, labelled & ~self.rule.wrong(target, self.num_outputs)


def rule_of_any_target(ignore_index: int | None) -> TargetRule:
    """Return the rule of a task of kind custom.

    Args:
        ignore_index: Integer that means "no label"; None for none. Floating-point numbers without a
            label are NaN.
    """

    def labelled(target: Tensor) -> Tensor:
        if target.is_floating_point():
            return is_number(target)
        if ignore_index is None:
            return torch.ones_like(target, dtype=torch.bool)
        return is_labelled(target, ignore_index)

    def wrong(target: Tensor, num_outputs: int) -> Tensor:
        del num_outputs
        return torch.zeros_like(target, dtype=torch.bool)

    return TargetRule("a target", labelled, wrong)


def ignored_index(loss: Any) -> int | None:
    """Return the ``ignore_index`` of a loss of torch's; None if it has none."""
    index: int | None = _option(loss, "ignore_index")
    return -100 if index is None and _function(loss) in _FUNCTIONS_OF_CLASSES else index


def _per_element(loss: Any) -> Callable[..., Any]:
    """Return a loss of torch's without its mean, any other as it is."""
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise ConfigError(
            f"`loss` must have no parameters, which nothing would train, got {loss}; write them "
            "into the head."
        )
    if _option(loss, "reduction") == "sum":
        raise ConfigError(
            "`loss` must be a mean, got reduction='sum', whose size depends on how many labels a "
            "batch has; leave it out."
        )
    if isinstance(loss, _Loss):
        terms = copy.deepcopy(loss)
        terms.reduction = "none"
        return terms
    function = _function(loss)
    is_of_torch = inspect.isfunction(function) and function.__module__ == F.__name__
    if is_of_torch and "reduction" in inspect.signature(function).parameters:
        return partial(loss, reduction="none")
    result: Callable[..., Any] = loss
    return result


def _class_weights(loss: Any) -> Tensor | None:
    """Return the weights of the classes; ``weight`` means something else in other losses."""
    is_weighted = isinstance(loss, _OF_CLASSES) or _function(loss) in _FUNCTIONS_OF_CLASSES
    weights: Tensor | None = _option(loss, "weight") if is_weighted else None
    return weights


def _function(loss: Any) -> Any:
    return loss.func if isinstance(loss, partial) else loss


def _option(loss: Any, name: str) -> Any:
    """Return a keyword of a partial, or an attribute of a module; None if it has none."""
    return loss.keywords.get(name) if isinstance(loss, partial) else getattr(loss, name, None)


def _as_of(mask: Tensor, prediction: Tensor) -> Tensor:
    """Return a mask of the target's elements as one of the prediction's."""
    if 1 < mask.dim() < prediction.dim():
        return mask.unsqueeze(1)  # of classes, whose axis is the second one
    return _widened(mask, prediction)


def _widened(mask: Tensor, values: Tensor) -> Tensor:
    """Return a mask with as many axes as the values, the last ones of length 1."""
    return mask.view(*mask.shape, *[1] * (values.dim() - mask.dim()))


def _of_terms(mask: Tensor, terms: Tensor) -> Tensor:
    """Return a mask of the target's elements as one of the loss's terms."""
    if terms.dim() == 1:
        mask = mask.reshape(len(mask), -1).all(1)
    elif terms.dim() < mask.dim():
        mask = mask.all(1)
    try:
        return _widened(mask, terms).expand_as(terms)
    except RuntimeError:
        raise ShapeError(
            "the loss must return one number per example or per element of the target, shape "
            f"{list(mask.shape)}, got {list(terms.shape)}; reduce the rest with mean()."
        ) from None
