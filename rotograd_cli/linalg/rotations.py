"""Skew-symmetric matrices, and rotations drawn at random."""

import torch
from torch import Tensor


def skew(X: Tensor) -> Tensor:
    r"""Skew-symmetric matrix :math:`\mathrm{tril}(X) - \mathrm{tril}(X)^\top`, strict triangle.

    Args:
        X: Free parameters, shape ``[..., m, m]``; only the strictly lower triangle is read.

    Returns:
        Skew-symmetric matrices, shape ``[..., m, m]``.
    """
    lower = X.tril(-1)
    return lower - lower.mT


def haar_rotations(num: int, size: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Rotations drawn from the Haar (uniform) measure on SO(size).

    Drawn on the CPU in float64 by a QR decomposition of a Gaussian matrix. The sign of the
    determinant is counted from the Householder reflectors, so it is right at any size (a
    determinant computed in float32 underflows from about 400 rows on, and then half of the
    "rotations" are reflections).

    Args:
        num: Number of matrices.
        size: Rows and columns of each.
        generator: CPU random generator; the global one when None.

    Returns:
        Rotations, shape ``[num, size, size]``, float64, on the CPU.

    References:
        Mezzadri, "How to generate random matrices from the classical compact groups", 2007.
    """
    gaussian = torch.randn(num, size, size, dtype=torch.float64, generator=generator)
    factors, tau = torch.geqrf(gaussian)
    signs = factors.diagonal(dim1=-2, dim2=-1).sign()
    Q: Tensor = torch.linalg.householder_product(factors, tau) * signs.unsqueeze(-2)
    reflections = (tau != 0).sum(-1) + (signs < 0).sum(-1)
    Q[..., 0] *= (1 - 2 * (reflections % 2)).unsqueeze(-1)
    return Q
