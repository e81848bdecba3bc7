"""Series of the exponential: coefficients, numbers of terms and nodes, products with rows."""

import math
import tracemalloc

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

from rotograd_cli.linalg.chebyshev import (
    Series,
    bessel_coefficients,
    num_nodes,
    num_terms,
    series,
)
from rotograd_cli.linalg.exponential import chebyshev_rows, combine_terms, exp_skew_adjoint
from tests.unit.test_rotations import random_skew

BOUNDS = (2**-6, 1e-2, 0.1, 0.5, 1.0, 2.0, 2 * math.pi, 4 * math.pi, 40.0, 200.0)
TOLERANCES = (2**-24, 2**-53)  # half an eps of float32 and of float64
CPU = torch.device("cpu")


def tail(bound: float, num: int) -> float:
    """Largest error of a series that ends after ``num`` terms."""
    orders = np.arange(num, num + 400)
    return float(2 * np.abs(scipy.special.jv(orders, bound)).sum())


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("bound", BOUNDS)
def test_coefficients_are_bessel_functions(bound: float, tolerance: float) -> None:
    num = num_terms(bound, tolerance)
    x = bound * np.linspace(-1, 1, 21)
    found = bessel_coefficients(x, num)
    wanted = scipy.special.jv(np.arange(num), x[:, None]) * np.where(np.arange(num) > 0, 2, 1)
    # orders left out alias into the others, below the tolerance of the series that they are meant
    # for; a phase x sin(tau) is exact to eps |x|, and it enters coefficients up to 2
    rounding = 2 * np.finfo(np.float64).eps * (1 + bound)
    assert np.abs(found - wanted).max() < tolerance / 2 + rounding


def test_coefficients_of_large_rotations_take_little_memory() -> None:
    tracemalloc.start()
    bessel_coefficients(np.linspace(-256, 256, 200), 300)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 200 * 600 * 8  # samples, transforms, results; not a cosine for every order


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("bound", BOUNDS)
def test_number_of_terms_is_enough_and_hardly_more(bound: float, tolerance: float) -> None:
    num = num_terms(bound, tolerance)
    assert tail(bound, num) <= tolerance
    # Kapteyn's inequality is a little pessimistic: by two terms, and by some percent of many
    spare = 3 if bound <= 4 * math.pi else max(4, num // 32)
    assert tail(bound, num - spare) > tolerance


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("frequency", [2 * bound for bound in BOUNDS])
def test_number_of_nodes_is_enough_and_hardly_more(frequency: float, tolerance: float) -> None:
    def error(num: int) -> float:
        """Of Gauss's rule, for the worst of the frequencies up to the given one."""
        nodes, weights = np.polynomial.legendre.leggauss(num)
        frequencies = frequency * np.linspace(0, 1, 41)
        found = np.exp(1j * frequencies[:, None] * (nodes + 1) / 2) @ weights / 2
        integral = np.exp(1j * frequencies / 2) * np.sinc(frequencies / 2 / np.pi)
        return float(np.abs(found - integral).max())

    num = num_nodes(frequency, tolerance)
    # the rule itself is computed in float64: phases up to the frequency, and sums of num numbers
    rounding = np.finfo(np.float64).eps * (frequency + num)
    assert error(num) <= tolerance + rounding
    # the bound is asymptotic: two nodes more than needed, and up to a fifth beyond norms of 4 pi
    spare = 3 if frequency <= 8 * math.pi else num // 5
    assert num <= 3 or error(num - spare) > tolerance - rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_series_reaches_the_bound_that_was_asked_for(dtype: torch.dtype) -> None:
    for bound in (0.0, *BOUNDS, 3.7, 1000.0, 2048.0):
        plan = series(bound, dtype, CPU)
        # powers of 2^(1/4); its own logarithm is exact to 1e-9
        assert max(bound, 2**-6) * (1 - 1e-9) <= plan.bound <= max(bound, 2**-6) * 2**0.2501
        assert tail(plan.bound, plan.num_terms) <= torch.finfo(dtype).eps / 2
        for coefficients in (plan.forward, plan.backward):
            assert coefficients.dtype == dtype
            assert coefficients.shape == (1 + len(plan.weights), plan.num_terms)
        assert len(plan.integrated) == plan.num_terms
    assert series(1.01, dtype, CPU) is series(1.1, dtype, CPU)  # computed once for all of these


@pytest.mark.parametrize("bound", [math.nan, math.inf, -math.inf, 2049.0, 1e300])
def test_a_bound_beyond_any_use_makes_every_result_nan(bound: float) -> None:
    """At once: nodes for norms of millions would take hours and all memory."""
    plan = series(bound, torch.float32, CPU)
    A, rows = random_skew(4, 1.0).float(), torch.ones(3, 2, 4)
    for coefficients in (plan.forward, plan.backward):
        assert combine_terms(coefficients, chebyshev_rows(A, rows, plan)).isnan().all()
    T = random_skew(4, 1.0, seed=1).float()
    assert exp_skew_adjoint(A, T, bound).isnan().all()


def exponentials(A: Tensor, times: np.ndarray) -> Tensor:
    """Exponentials of tA, shape ``[K, T, m, m]``."""
    t = torch.from_numpy(times).to(A).view(-1, 1, 1)
    return torch.linalg.matrix_exp(t * A.unsqueeze(1))


def times_of(plan: Series) -> np.ndarray:
    nodes, weights = np.polynomial.legendre.leggauss(len(plan.weights))
    np.testing.assert_allclose(plan.weights.double().numpy(), weights / 2, rtol=1e-6)
    return (nodes + 1) / 2


@pytest.mark.parametrize("size", [1, 2, 3, 7, 24])
@pytest.mark.parametrize("norm", [1e-3, 0.04, 0.3, 1.0, 5.0, 20.0])
def test_rows_times_exponentials_agree_with_matrix_exp(norm: float, size: int) -> None:
    A = random_skew(size, norm)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(3, 5, size, generator=generator, dtype=torch.float64)
    plan = series(norm, torch.float64, CPU)
    terms = chebyshev_rows(A, rows, plan)
    t = times_of(plan)
    for coefficients, times in (
        (plan.forward, np.append(1, 1 - t)),
        (plan.backward, -np.append(1, t)),
    ):
        found = combine_terms(coefficients, terms)
        wanted = rows.unsqueeze(1) @ exponentials(A, times)
        # rows of length up to 8 times the rounding of some sixty terms that are added up
        assert (found - wanted).abs().max() < 1e-13


def test_terms_are_chebyshev_polynomials_of_norm_one_at_most() -> None:
    """At the bound itself a wrong recurrence would grow exponentially."""
    A = random_skew(24, 20.0)
    plan = series(20.0, torch.float64, CPU)
    eye = torch.eye(24, dtype=torch.float64).expand(3, -1, -1)
    terms = chebyshev_rows(A, eye, plan)
    assert torch.linalg.matrix_norm(terms, 2).max() < 1 + 1e-12
    # C_j = i^-j T_j(-i A/θ), so that C_2 = 2 (A/θ)² + I
    torch.testing.assert_close(terms[2], 2 * (A / plan.bound) @ (A / plan.bound) + eye)
