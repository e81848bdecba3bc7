r"""Chebyshev series of :math:`e^{tA}` for skew :math:`A`, and how many terms and nodes they need.

With a bound :math:`\theta \ge \lVert A\rVert_2` the eigenvalues of :math:`A/\theta` lie in
:math:`i[-1, 1]`, and

.. math::
    e^{tA} = \sum_{j\ge0} a_j(t\theta)\, C_j, \qquad a_0 = J_0,\; a_j = 2J_j, \qquad
    C_0 = I,\; C_1 = A/\theta,\; C_{j+1} = \tfrac{2}{\theta} A\, C_j + C_{j-1},

with the Bessel functions :math:`J_j` and :math:`\lVert C_j\rVert_2 \le 1`. The series ends at
rounding after little more than :math:`\theta` terms, without the cancellation of Taylor's.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

_SMALLEST_BOUND = 2.0**-6
_LARGEST_BOUND = 2.0**11  # float32 keeps three digits there, and the nodes take a second
_STEPS_PER_OCTAVE = 4  # bounds are rounded up to powers of 2^(1/4), so that series are shared


@dataclass(frozen=True)
class Series:
    """Everything about the series that depends on bound and precision alone."""

    bound: float
    """θ."""
    num_terms: int
    """p: what is left out is below the rounding."""
    weights: Tensor
    """Of Gauss-Legendre nodes on [0, 1], enough for products of two exponentials, ``[q]``."""

    forward: Tensor
    r""":math:`a_j(t\theta)` at t = 1 and at one minus the nodes, shape ``[1 + q, p]``."""
    backward: Tensor
    r""":math:`a_j(t\theta)` at t = -1 and at minus the nodes, shape ``[1 + q, p]``."""
    integrated: tuple[float, ...]
    r""":math:`\int_0^1 a_j(t\theta)\,dt`, p numbers."""


def series(bound: float, dtype: torch.dtype, device: torch.device) -> Series:
    r"""The series for skew matrices with spectral norm up to ``bound``.

    Args:
        bound: :math:`\theta \ge \lVert A\rVert_2`; rounded up a little. NaN, infinity and
            more than 2048 (a run that diverges) give a series whose coefficients are NaN.
        dtype: Sets the accuracy: float32 or float64.
        device: Where coefficients are wanted.

    Returns:
        The series.
    """
    if not abs(bound) <= _LARGEST_BOUND:
        nan = torch.full((2, 2), math.nan, dtype=dtype, device=device)
        return Series(math.nan, 2, nan[0, :1], nan, nan, (math.nan, math.nan))
    octaves = math.log2(max(bound, _SMALLEST_BOUND))
    return _series(math.ceil(octaves * _STEPS_PER_OCTAVE - 1e-9), dtype, device)


@lru_cache(maxsize=256)
def _series(step: int, dtype: torch.dtype, device: torch.device) -> Series:
    bound = 2.0 ** (step / _STEPS_PER_OCTAVE)
    tolerance = torch.finfo(dtype).eps / 2
    p = num_terms(bound, tolerance)
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes(2 * bound, tolerance))
    t, weights = (nodes + 1) / 2, weights / 2

    def tensor(values: Array) -> Tensor:
        return torch.from_numpy(values).to(device, dtype)

    return Series(
        bound,
        p,
        tensor(weights),
        tensor(bessel_coefficients(bound * np.append(1.0, 1 - t), p)),
        tensor(bessel_coefficients(-bound * np.append(1.0, t), p)),
        tuple((weights @ bessel_coefficients(bound * t, p)).tolist()),
    )


def bessel_coefficients(x: Array, num: int) -> Array:
    r""":math:`a_0 = J_0(x)` and :math:`a_j = 2J_j(x)` for :math:`j` below ``num``.

    Fourier coefficients of :math:`e^{ix\sin\tau} = \sum_j J_j(x)\,e^{ij\tau}` by the trapezoidal
    rule, which is exact here up to Bessel functions of the orders left out.

    Args:
        x: Arguments, shape ``[T]``.
        num: Number of orders; large enough that those beyond are negligible at ``x``.

    Returns:
        The coefficients, shape ``[T, num]``, exact to about 1e-16.
    """
    tau = np.pi * np.arange(2 * num) / num
    samples = np.exp(1j * x[:, None] * np.sin(tau))
    coefficients: Array = np.fft.fft(samples, norm="forward").real[:, :num]
    coefficients[:, 1:] *= 2
    return coefficients


def num_terms(bound: float, tolerance: float) -> int:
    r"""Smallest number p ≥ 2 of terms with :math:`2\sum_{j\ge p}|J_j(\theta)|` below tolerance.

    By Kapteyn's inequality, :math:`|J_j(jz)| \le \bigl(z e^s/(1+s)\bigr)^j` with
    :math:`s = \sqrt{1-z^2}` for :math:`z = \theta/j \le 1`.
    """
    p = max(2, math.ceil(bound) + 1)
    while 2 * _kapteyn(bound, p) / (1 - _kapteyn(bound, p + 1) / _kapteyn(bound, p)) > tolerance:
        p += 1
    return p


def _kapteyn(x: float, order: int) -> float:
    z = x / order
    s = math.sqrt(1 - z * z)
    return math.exp(order * (math.log(z) + s - math.log1p(s)))


def num_nodes(frequency: float, tolerance: float) -> int:
    r"""Smallest q at which Gauss's rule integrates :math:`e^{i\omega t}` over [0, 1] to tolerance.

    Its error is at most :math:`\omega^{2q}\,(q!)^4 / ((2q+1)\,((2q)!)^3)`.
    """
    q = 1
    while _log_gauss_error(frequency, q) > math.log(tolerance):
        q += 1
    return q


def _log_gauss_error(frequency: float, q: int) -> float:
    logs = 4 * math.lgamma(q + 1) - 3 * math.lgamma(2 * q + 1) - math.log(2 * q + 1)
    return 2 * q * math.log(frequency) + logs
