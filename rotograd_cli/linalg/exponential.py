r"""The exponential as a map from skew matrices to rotations: :math:`\exp(A)`.

All functions work on stacks ``[K, m, m]``. A bound of the spectral norm decides how much they
compute. :func:`exponential_minus_one` takes it from the matrices where none is given, which means
reading a number (and waiting, on an accelerator).
"""

import math

import torch
from torch import Tensor

from rotograd_cli.linalg.chebyshev import Series, series

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


def exponential_minus_one(A: Tensor, bound: float | None = None) -> tuple[Tensor, float]:
    r""":math:`\exp(A) - I`, which keeps the digits that adding the identity would round away.

    Degree-8 Taylor polynomial with scaling and squaring. The bound of the norm is
    :math:`(\lVert A^2\rVert_F^2/2)^{1/4}`: the eigenvalues of a real skew matrix come in pairs
    :math:`\pm i\theta`, so the largest :math:`\theta^4` is counted twice in
    :math:`\lVert A^2\rVert_F^2`; it is sharp for m ≤ 3.

    Args:
        A: Skew-symmetric matrices, shape ``[K, m, m]``. Not checked.
        bound: What their spectral norms are planned not to exceed. Beyond it everything comes out
            as NaN: an approximation never passes for the result.

    Returns:
        Matrices, shape ``[K, m, m]``, and a bound of the norms.
    """
    square = torch.bmm(A, A)
    largest = torch.linalg.vector_norm(square, dim=(1, 2)).amax().div_(math.sqrt(2)).sqrt_()
    planned = float(largest) if bound is None else bound
    step = 0.05 if A.dtype == torch.float64 else 0.5  # where the polynomial is exact to rounding
    squarings = max(0, math.ceil(math.log2(planned / step))) if 0 < planned < math.inf else 0
    scale = 2.0**-squarings
    F = _taylor8_minus_one(A * scale, square.mul_(scale**2))
    for _ in range(squarings):
        F = torch.baddbmm(F, F, F, beta=2)  # (I + F)² - I
    if bound is not None:
        F *= torch.where(largest <= bound, 1.0, math.nan)
    return F, planned


def exp_skew_adjoint(A: Tensor, T: Tensor, bound: float) -> Tensor:
    r"""Adjoint of the derivative of ``exp`` at skew ``A``: :math:`\varphi(\mathrm{ad}_A)(T)`.

    With :math:`\varphi(z) = (e^z - 1)/z` and :math:`\mathrm{ad}_A(T) = AT - TA` this is
    :math:`\int_0^1 e^{tA}\,T\,e^{-tA}\,dt`. For a loss with gradient :math:`M` with respect to
    :math:`R = B\exp(A)`, the gradient with respect to the free parameters ``X`` of ``A = skew(X)``
    is the strictly lower triangle of :math:`\varphi(\mathrm{ad}_A)(W - W^\top)` with :math:`W =
    R^\top M`.

    The Chebyshev series of :math:`e^{t\,\mathrm{ad}_A}`, whose norm is at most twice that of A,
    integrated over t. One product per term: :math:`\mathrm{ad}_A(T) = AT - (AT)^\top` for skew T.

    Args:
        A: Skew-symmetric matrices, shape ``[K, m, m]``.
        T: Skew-symmetric directions, shape ``[K, m, m]``.
        bound: Upper bound of the spectral norms of A.

    Returns:
        Skew-symmetric matrices, shape ``[K, m, m]``.

    References:
        Lezcano-Casado, "Trivializations for Gradient-Based Optimization on Manifolds", NeurIPS
        2019.
    """
    plan = series(2 * bound, A.dtype, A.device)
    coefficients = plan.integrated
    product = A @ T
    previous = T.clone()
    term = (product - product.mT) / plan.bound
    total: Tensor = coefficients[0] * T + coefficients[1] * term
    for coefficient in coefficients[2:]:
        # half of the skew previous term, doubled again by the antisymmetrisation
        torch.baddbmm(previous, A, term, beta=0.5, alpha=2 / plan.bound, out=product)
        torch.sub(product, product.mT, out=previous)
        previous, term = term, previous
        total.add_(term, alpha=coefficient)
    return total


def chebyshev_rows(A: Tensor, rows: Tensor, plan: Series) -> Tensor:
    r"""Rows times the terms of the series, :math:`x\,C_j`, without forming a matrix.

    Args:
        A: Skew-symmetric matrices, shape ``[K, m, m]``, spectral norms at most ``plan.bound``.
        rows: Shape ``[K, o, m]``.
        plan: The series.

    Returns:
        Shape ``[p, K, o, m]``.
    """
    terms = rows.new_empty(plan.num_terms, *rows.shape)
    first, second, *others = terms.unbind()
    first.copy_(rows)
    torch.bmm(rows, A, out=second).div_(plan.bound)
    for term in others:
        torch.baddbmm(first, second, A, alpha=2 / plan.bound, out=term)
        first, second = second, term
    return terms


def combine_terms(coefficients: Tensor, terms: Tensor) -> Tensor:
    """Rows times exponentials, from :func:`chebyshev_rows`.

    Args:
        coefficients: One row per exponential, shape ``[T, p]``.
        terms: Shape ``[p, K, o, m]``; the last two axes are contiguous.

    Returns:
        Shape ``[K, T, o, m]``.
    """
    K, o, m = terms.shape[1:]
    by_task = terms.transpose(0, 1).flatten(2)  # a view: [K, p, o m]
    return torch.bmm(coefficients.expand(K, -1, -1), by_task).view(K, -1, o, m)


def _taylor8_minus_one(A: Tensor, A2: Tensor) -> Tensor:
    """The polynomial without its constant term; overwrites A."""
    A4 = A2 @ (_X1 * A).add_(A2, alpha=_X2)
    inner = (_X5 * A).add_(A2, alpha=_X6).add_(A4, alpha=_X7)
    inner.diagonal(dim1=-2, dim2=-1).add_(_X4)
    return torch.baddbmm(A.add_(A2, alpha=_Y2), A4.add_(A2, alpha=_X3), inner)
