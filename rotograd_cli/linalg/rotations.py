r"""Rotations :math:`R = B \exp(A)` with skew :math:`A`: the map, its adjoint, random samples.

All functions work on stacks: the leading axes are batch axes, the last two the matrix. Nothing here
waits for an accelerator: where the amount of work depends on a norm, the CPU reads it and every
other device runs a fixed number of masked steps.
"""

import math
from typing import Any

import torch
from torch import Tensor

_MAX_SQUARINGS = 8  # on accelerators: exact up to ‖A‖ = 128 (float32), 12.8 (float64)
_SERIES_TERMS = 11  # φ's remainder is below the rounding at ‖ad_A‖ ≤ 1 (float32), 0.1 (float64)

# Degree-8 Taylor polynomial of exp in three products
# (Sastre, Ibáñez, Defez 2018; Bader, Blanes, Casas 2019).
_S = math.sqrt(177.0)
_X3 = 2.0 / 3.0
_X1 = _X3 * (1.0 + _S) / 88.0
_X2 = _X3 * (1.0 + _S) / 352.0
_X4 = (-271.0 + 29.0 * _S) / (315.0 * _X3)
_X5 = 11.0 * (-1.0 + _S) / (1260.0 * _X3)
_X6 = 11.0 * (-9.0 + _S) / (5040.0 * _X3)
_X7 = (89.0 - _S) / (5040.0 * _X3**2)
_Y2 = (857.0 - 58.0 * _S) / 630.0


def skew(X: Tensor) -> Tensor:
    r"""Skew-symmetric matrix :math:`\mathrm{tril}(X) - \mathrm{tril}(X)^\top`, strict triangle.

    Args:
        X: Free parameters, shape ``[..., m, m]``; only the strictly lower triangle is read.

    Returns:
        Skew-symmetric matrices, shape ``[..., m, m]``.
    """
    lower = X.tril(-1)
    return lower - lower.mT


def spectral_bound(A: Tensor) -> Tensor:
    r"""Upper bound of the spectral norm of skew matrices, :math:`(\lVert A^2\rVert_F^2/2)^{1/4}`.

    The eigenvalues of a real skew matrix come in pairs :math:`\pm i\theta`, so the largest
    :math:`\theta^4` is counted twice in :math:`\lVert A^2\rVert_F^2`; the bound is sharp for m ≤ 3.

    Args:
        A: Skew-symmetric matrices, shape ``[..., m, m]``.

    Returns:
        The bounds, shape ``[...]``.
    """
    squared: Tensor = torch.linalg.matrix_norm(A @ A)
    return (squared.square() / 2).pow(0.25)


def exp_skew(A: Tensor) -> Tensor:
    r"""Matrix exponential of a stack of skew-symmetric matrices, differentiable once.

    Degree-8 Taylor polynomial with scaling and squaring. Its derivative is the closed form
    :func:`exp_skew_adjoint`, so that no graph through the exponential is recorded, and only the
    skew-symmetric part of the incoming direction is returned (the only part that a skew ``A`` can
    follow). Half-precision input is computed in float32.

    Args:
        A: Skew-symmetric matrices, shape ``[..., m, m]``. Not checked.

    Returns:
        Rotations, shape ``[..., m, m]``, with the dtype and device of ``A``.

    Examples:
        >>> exp_skew(torch.tensor([[0.0, -torch.pi / 2], [torch.pi / 2, 0.0]])).round().abs()
        tensor([[0., 1.],
                [1., 0.]])
    """
    result: Tensor = _ExpSkew.apply(A)
    return result


def exp_skew_adjoint(A: Tensor, T: Tensor) -> Tensor:
    r"""Adjoint of the derivative of ``exp`` at skew ``A``: :math:`\varphi(\mathrm{ad}_A)(T)`.

    With :math:`\varphi(z) = (e^z - 1)/z` and :math:`\mathrm{ad}_A(T) = AT - TA` this is
    :math:`\int_0^1 e^{tA}\,T\,e^{-tA}\,dt`. For a loss with gradient :math:`M` with respect to
    :math:`R = B\exp(A)`, the gradient with respect to the free parameters ``X`` of ``A = skew(X)``
    is the strictly lower triangle of :math:`\varphi(\mathrm{ad}_A)(W - W^\top)` with :math:`W =
    R^\top M`.

    The series is summed at :math:`A/2^s` and doubled with :math:`I(2t) = I(t) + e^{tA} I(t)
    e^{-tA}`, which keeps it accurate for large ``A``.

    Args:
        A: Skew-symmetric matrices, shape ``[..., m, m]``.
        T: Skew-symmetric directions, shape ``[..., m, m]``.

    Returns:
        Skew-symmetric matrices, shape ``[..., m, m]``.

    References:
        Lezcano-Casado, "Trivializations for Gradient-Based Optimization on Manifolds", NeurIPS
        2019.
    """
    scale, levels = _scaling(A)
    A = A * scale
    E = _taylor8(A)
    total, term = T, T
    for j in range(2, _SERIES_TERMS):
        product = A @ term
        term = (product - product.mT) / j  # ad_A(T) = AT - (AT)ᵀ for skew T
        total = total + term
    for level in levels:
        total = _select(level, (total + E @ total @ E.mT) / 2, total)
        E = _select(level, E @ E, E)
    return total


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


class _ExpSkew(torch.autograd.Function):
    @staticmethod
    def forward(A: Tensor) -> Tensor:
        with torch.autocast(A.device.type, enabled=False):
            return _exp(A.to(_compute_dtype(A.dtype))).to(A.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        A, E = (t.to(_compute_dtype(t.dtype)) for t in ctx.saved_tensors)
        with torch.autocast(A.device.type, enabled=False):
            W = E.mT @ grad.to(A.dtype)
            return exp_skew_adjoint(A, (W - W.mT) / 2).to(grad.dtype)


def _exp(A: Tensor) -> Tensor:
    scale, levels = _scaling(A)
    E = _taylor8(A * scale)
    for level in levels:
        E = _select(level, E @ E, E)
    return E


def _taylor8(A: Tensor) -> Tensor:
    A2 = A @ A
    A4 = A2 @ (_X1 * A + _X2 * A2)
    inner = _X5 * A + _X6 * A2 + _X7 * A4
    inner.diagonal(dim1=-2, dim2=-1).add_(_X4)
    E = (_X3 * A2 + A4) @ inner + A + _Y2 * A2
    E.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return E


def _scaling(A: Tensor) -> tuple[float | Tensor, list[bool | Tensor]]:
    """Factor 2^-s that brings ``A`` under the norm at which degree 8 is exact; s doublings."""
    if A.numel() == 0:
        return 1.0, []
    step = 0.05 if A.dtype == torch.float64 else 0.5
    num = (spectral_bound(A).amax() / step).log2().ceil().clamp_min(0)
    if _reads_are_free(A.device):
        count = int(num) if num.isfinite() else 0  # NaN parameters stay NaN
        return 2.0**-count, [True] * count
    num = num.clamp_max(_MAX_SQUARINGS)
    return torch.exp2(-num), [num > level for level in range(_MAX_SQUARINGS)]


def _reads_are_free(device: torch.device) -> bool:
    return device.type == "cpu"  # reading a number there waits for nothing


def _select(level: bool | Tensor, new: Tensor, old: Tensor) -> Tensor:
    return new if level is True else torch.where(torch.as_tensor(level), new, old)


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
