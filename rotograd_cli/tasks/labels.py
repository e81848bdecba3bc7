"""Which elements of a target have a label, for losses, metrics and checks alike.

All of it stays on the device: masks, never indexing. Integers are compared as int64, because an
unsigned type would take -1 for its largest value.
"""

from torch import Tensor

from rotograd_cli.errors import ShapeError

NO_LABEL = -1
"""Target of an element without a label, among classes and in binary tasks."""


def is_labelled(target: Tensor, void: int = NO_LABEL) -> Tensor:
    """Elements of a target of classes, or of 0 and 1, that have a label, boolean."""
    return _signed(target) != void


def no_class(target: Tensor, num_classes: int, void: int = NO_LABEL) -> Tensor:
    """Elements that are neither one of the classes nor without a label, boolean."""
    labels = _signed(target)
    return (labels.clamp(0, num_classes - 1) != labels) & (labels != void)


def no_probability(target: Tensor, num_outputs: int) -> Tensor:
    """Elements that are neither in [0, 1] nor without a label, boolean."""
    del num_outputs
    labels = _signed(target)
    return (labels.clamp(0, 1) != labels) & (labels != NO_LABEL)


def is_number(target: Tensor) -> Tensor:
    """Elements of a regression's target that are there: those that are not NaN, boolean."""
    return target.eq(target)  # NaN alone differs from itself


def has_depth(target: Tensor) -> Tensor:
    """Pixels with a depth, boolean: neither 0 nor NaN."""
    return target.abs() > 0


def has_normal(target: Tensor) -> Tensor:
    """Pixels with a normal, boolean, shape ``[N, 1, ...]``: no component NaN, not all of them 0."""
    return target.abs().sum(1, keepdim=True) > 0


def is_infinite(target: Tensor, num_outputs: int) -> Tensor:
    """Elements of a target of numbers that no loss can be finite for, boolean."""
    del num_outputs
    return target.isinf()


def _signed(target: Tensor) -> Tensor:
    return target if target.is_floating_point() else target.long()


def check_shapes(values: Tensor, target: Tensor) -> None:
    """Refuse a target that would be broadcast against the values it is compared with.

    Raises:
        ShapeError: If the shapes differ.
    """
    if values.shape != target.shape:
        column = target.dim() == values.dim() + 1 and target.shape[-1] == 1
        shape = "squeeze(-1)" if column else f"reshape({list(values.shape)})"
        remedy = f"write target.{shape}, or " if target.numel() == values.numel() else ""
        raise ShapeError(
            f"the target must have shape {list(values.shape)}, got {list(target.shape)}; {remedy}"
            "give the task the outputs that it needs."
        )
