"""Quotients of gradient norms."""

from torch import Tensor


def divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient with 0 where the denominator is 0, without inf or NaN on the way.

    Args:
        numerator: Any tensor.
        denominator: A tensor that broadcasts with it.

    Returns:
        ``numerator / denominator``, and 0 where ``denominator`` is 0.

    Examples:
        >>> import torch
        >>> divide_or_zero(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 0.0]))
        tensor([0.2500, 0.0000])
    """
    is_zero = denominator == 0
    return (numerator / denominator.masked_fill(is_zero, 1)).masked_fill(is_zero, 0)
