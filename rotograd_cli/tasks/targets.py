"""The target of one example: what a loss takes, made from what the user's data set has."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError, first_line
from rotograd_cli.tasks.labels import NO_LABEL


@dataclass(frozen=True)
class TargetForm:
    """Where the target of a declared task is in an example, and what it is like."""

    name: str
    """Name of the task."""
    shape: tuple[int, ...] | None
    """Shape; None takes targets of any shape."""
    dtype: torch.dtype | None
    """int64 for classes, else float32; None leaves the type."""
    no_label: float | None
    """Value of an element without a label; None if there is no such value. Without a ``dtype`` it
    is that of integers, and floating-point numbers have NaN."""
    ignore_index: float | None = None
    """Value that means "no label" in the user's data."""
    key: str | int = ""
    """Where the target is in an example: a key or an index."""
    mask: str | int | None = None
    """Where an example says which labels are there; None if all are."""

    def unlabelled(self, like: Tensor | None = None) -> Tensor:
        """Return the target of an example without a label.

        Args:
            like: Target of another example, for forms of any shape.

        Raises:
            ConfigError: If the form does not say what it is.
        """
        if self.shape is not None and self.no_label is not None:
            return torch.full(self.shape, self.no_label, dtype=self.dtype)
        if like is None:
            raise self._refusal(
                "an example has no target, which a task of kind custom cannot do without; return "
                "one that its loss leaves out (NaN, or its ignore_index)."
            )
        return self._filled(like, torch.ones_like(like, dtype=torch.bool))

    def read(self, value: Any, mask: Any = None) -> Tensor:
        """Return the target of an example as losses and metrics take it, on the CPU.

        Args:
            value: Tensor, array, number or list; None for no label. Booleans and unsigned integers
                are taken as numbers, a single number may have the shape ``[1]``, and NaN means "no
                label" of classes too.
            mask: True where there is a label: one value for the example, one for each element, or
                what is broadcast to the target; None if all labels are there.

        Returns:
            The target, with :attr:`no_label` where there is no label.

        Raises:
            ConfigError: If it is no target of this form.
        """
        if value is None:
            return self.unlabelled()
        target = self._of_shape(self._numbers(value))
        missing = target.isnan()
        if self.ignore_index is not None:
            missing = missing | (target == self.ignore_index)
        if mask is not None:
            missing = missing | ~self._mask(mask, target)
        return self._filled(target, missing)

    def _numbers(self, value: Any) -> Tensor:
        try:
            target = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            reason = f" ({first_line(error)})" if isinstance(value, (list, tuple)) else ""
            raise self._refusal(
                f"the target must be a number, an array or a tensor, got a {type(value).__name__}"
                f"{reason}; convert it in your data set."
            ) from error
        if target.is_complex():
            raise self._refusal(f"the target must be real, got {target.dtype}; convert it.")
        # the smaller unsigned types have no -1, and the larger ones hardly any operation
        return target if target.is_floating_point() else target.long()

    def _of_shape(self, target: Tensor) -> Tensor:
        """Return a target in this form's shape, from which one axis of length 1 may differ."""
        shape = self.shape
        if shape is None or target.shape == shape:
            return target
        if (1, *target.shape) == shape or target.shape == (1, *shape):
            return target.reshape(shape)
        remedy = "correct the target, `num_outputs` or `map_shape`"
        is_of_numbers = self.no_label is not None and math.isnan(self.no_label)
        if is_of_numbers and target.dim() == 1 and len(shape) <= 1:
            remedy = f"set `num_outputs: {len(target)}`"
        is_one_hot = target.shape[1:] == shape and set(target.flatten().tolist()) == {0, 1}
        if self.dtype == torch.int64 and is_one_hot:
            remedy = "write target.argmax(0)"
        raise self._refusal(
            f"the target of an example must have shape {list(shape)}, got {list(target.shape)}; "
            f"{remedy}."
        )

    def _mask(self, mask: Any, target: Tensor) -> Tensor:
        labelled = torch.as_tensor(mask).bool()
        if labelled.numel() == 1:
            return labelled.reshape(()).expand_as(target)
        if labelled.shape[: -target.dim()] == (1,):  # the channel that a map was given without
            labelled = labelled[0]
        try:
            return labelled.expand_as(target)
        except RuntimeError:
            raise self._refusal(
                f"its mask must have one value, or the target's shape {list(target.shape)}, got "
                f"shape {list(labelled.shape)}; correct it."
            ) from None

    def _filled(self, target: Tensor, missing: Tensor) -> Tensor:
        """Return a target with the value of "no label" where labels are missing."""
        no_label = self.no_label
        if self.dtype is None and target.is_floating_point():
            no_label = torch.nan
        if no_label is None:
            if missing.any():
                raise self._refusal(
                    "an element has no label, but nothing says how its loss is told; set "
                    f"++data.tasks.{self.name}.ignore_index=-1, say."
                )
            return target
        is_flag = self.dtype == torch.float32 and no_label == NO_LABEL
        if is_flag and (target.eq(NO_LABEL) & ~missing).any():
            raise self._refusal(
                f"the target must be 0 or 1, got -1; for no label set ++data.tasks.{self.name}."
                "ignore_index=-1, and for no write 0."
            )
        if self.dtype == torch.int64 and target.is_floating_point():
            fractions = target[(target != target.round()) & ~missing]
            if len(fractions):
                raise self._refusal(
                    f"the target must be a class, a whole number, got {fractions[0].item():g}; for "
                    "probabilities of the classes take kind: custom with a loss that takes them."
                )
        # filled before it is converted: NaN has no integer
        return torch.where(missing, no_label, target).to(self.dtype or target.dtype)

    def _refusal(self, text: str) -> ConfigError:
        return ConfigError(f"Task {self.name!r}: {text}")
