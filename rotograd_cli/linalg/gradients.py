"""Small operations on gradients of all tasks."""

from collections.abc import Sequence

import torch
from torch import Tensor

_PART = 2**20  # numbers of which the CPU, unlike a GPU, makes a copy in float64


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
    return (numerator / denominator.masked_fill(is_zero, 1)).masked_fill_(is_zero, 0)


def norms_of(tensors: Sequence[Tensor]) -> Tensor:
    """Norms of tensors, without over- or underflow on the way.

    Squares are summed in float64: those of float32 leave its range from norms of 1.8e19 up and of
    1e-23 down, though the norms themselves do not.

    Args:
        tensors: K tensors of one floating dtype, at least float32.

    Returns:
        Norms in the tensors' dtype, shape ``[K]``.

    Examples:
        >>> import torch
        >>> norms_of([torch.tensor([3e25, 4e25]), torch.tensor([3e-30, 4e-30])])
        tensor([5.0000e+25, 5.0000e-30])
    """
    is_copied = tensors[0].device.type == "cpu" and tensors[0].numel() > _PART
    if not is_copied:
        norms = torch._foreach_norm(list(tensors), dtype=torch.float64)
    else:
        parts = (torch.split(tensor.flatten(), _PART) for tensor in tensors)
        of_parts = (torch._foreach_norm(part, dtype=torch.float64) for part in parts)
        norms = tuple(torch.stack(values).norm() for values in of_parts)
    return torch.stack(norms).to(tensors[0].dtype)


def without_rounding(matrix: Tensor, tolerance: float) -> Tensor:
    """A matrix of inner products whose eigenvalues up to a tolerance are zero.

    Args:
        matrix: Symmetric, positive semi-definite but for rounding, shape ``[K, K]``.
        tolerance: Largest absolute value of an eigenvalue that may be rounding alone.

    Returns:
        Positive semi-definite, shape ``[K, K]``.

    Examples:
        >>> import torch
        >>> without_rounding(torch.tensor([[2.0, 2.0], [2.0, 1.999999]]), 1e-5)
        tensor([[2.0000, 2.0000],
                [2.0000, 2.0000]])
    """
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    kept = torch.where(eigenvalues > tolerance, eigenvalues, 0)
    clean: Tensor = (vectors * kept) @ vectors.mT
    return clean


def directions(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and lengths, for solvers that need them apart.

    Args:
        gramian: Inner products of vectors that are not zero, shape ``[k, k]``.

    Returns:
        Cosines between the vectors, shape ``[k, k]``; their lengths, shape ``[k]``.
    """
    lengths = gramian.diagonal().sqrt()
    return gramian / lengths.unsqueeze(1) / lengths, lengths


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """As ``torch.stack``, without a copy where the tensors lie one after the other already.

    Args:
        tensors: K tensors of one shape.

    Returns:
        Shape ``[K, ...]``; may share memory with the tensors.
    """
    first, size = tensors[0], tensors[0].numel()
    in_place = all(
        tensor.is_contiguous()
        and tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and tensor.storage_offset() == first.storage_offset() + k * size
        for k, tensor in enumerate(tensors)
    )
    if in_place:
        return first.as_strided((len(tensors), *first.shape), (size, *first.stride()))
    return torch.stack(list(tensors))


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """As ``torch.cat``, without a copy of a single tensor."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
