r"""Rotations drawn at random, distances between them, and the Cayley transform :math:`2M - I`.

With :math:`M = (I - A/2)^{-1}`, :math:`2M - I = (I - A/2)^{-1}(I + A/2)` maps skew matrices to
rotations. It agrees with the exponential to second order in A and never reaches a rotation by 180
degrees.
"""

import torch
from torch import Tensor


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
    factors, tau = torch.geqrf(
        torch.randn(num, size, size, dtype=torch.float64, generator=generator)
    )
    signs = factors.diagonal(dim1=-2, dim2=-1).sign()
    Q: Tensor = torch.linalg.householder_product(factors, tau).mul_(signs.unsqueeze(-2))
    reflections = (tau != 0).sum(-1) + (signs < 0).sum(-1)
    Q[..., 0] *= (1 - 2 * (reflections % 2)).unsqueeze(-1)
    return Q


def cayley(A: Tensor) -> Tensor:
    """Cayley transform of a stack of skew-symmetric matrices, differentiable.

    Args:
        A: Skew-symmetric matrices, shape ``[K, m, m]``.

    Returns:
        Rotations, shape ``[K, m, m]``.

    Examples:
        >>> cayley(torch.tensor([[[0.0, -2.0], [2.0, 0.0]]]))
        tensor([[[ 0., -1.],
                 [ 1.,  0.]]])
    """
    return 2 * cayley_inverse(A) - _identity(A)


def cayley_inverse(A: Tensor) -> Tensor:
    """:math:`M = (I - A/2)^{-1}`, which exists for every skew A.

    One matrix after the other on the CPU, where a batched LU decomposition can hang with two
    threads from about [2, 512, 512] on.

    Args:
        A: Skew-symmetric matrices, shape ``[K, m, m]``.

    Returns:
        The inverses, shape ``[K, m, m]``.
    """
    system = _identity(A) - A / 2
    if A.device.type != "cpu":
        inverse: Tensor = torch.linalg.inv_ex(system).inverse  # never waits to check
        return inverse
    return torch.stack([torch.linalg.inv_ex(matrix).inverse for matrix in system])


def geodesic_distances(R: Tensor) -> Tensor:
    r"""Return how far rotations are from the identity on SO(m), in radians.

    A rotation turns :math:`\lfloor m/2\rfloor` orthogonal planes by angles
    :math:`\theta_i\in[0,\pi]`, its principal angles. The shortest way to it from the identity has
    the length :math:`\sqrt{\sum_i \theta_i^2} = \lVert\log R\rVert_F/\sqrt2`.

    The symmetric part of R has the eigenvalues :math:`\cos\theta_i`, each twice, and the skew part
    stretches their eigenvectors by :math:`\sin\theta_i`; from both, small and large angles are
    exact.

    Args:
        R: Rotations, shape ``[K, m, m]``; best in float64.

    Returns:
        Shape ``[K]``.

    Examples:
        >>> quarter_turn = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
        >>> geodesic_distances(quarter_turn)
        tensor([1.5708])
    """
    cosines, vectors = torch.linalg.eigh((R + R.mT) / 2)
    sines = ((R - R.mT) / 2 @ vectors).norm(dim=-2)
    angles = torch.atan2(sines, cosines)  # of every plane, twice
    distances: Tensor = angles.square().sum(-1).div(2).sqrt()
    return distances


def orthogonality_errors(R: Tensor) -> Tensor:
    r"""Return :math:`\lVert R^\top R - I\rVert_F`, shape ``[K]``, of matrices ``[K, m, m]``."""
    errors: Tensor = (R.mT @ R - _identity(R)).flatten(1).norm(dim=1)
    return errors


def _identity(A: Tensor) -> Tensor:
    return torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
