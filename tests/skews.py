"""Skew matrices written out, for comparison with the packed ones of the package."""

import torch
from torch import Tensor


def skew(X: Tensor) -> Tensor:
    """Skew matrices with the strictly lower triangles of any matrices."""
    return X.tril(-1) - X.tril(-1).mT


def unpacked(x: Tensor) -> Tensor:
    """Strictly lower triangular matrices ``[K, m, m]`` of free parameters; differentiable."""
    size = next(m for m in range(1, 10_000) if m * (m - 1) // 2 == x.shape[1])
    rows, columns = torch.tril_indices(size, size, -1)
    lower = x.new_zeros(len(x), size, size)
    lower[:, rows, columns] = x
    return lower
