"""CAGrad against the dual of its problem, solved by scipy."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.cagrad import CAGrad
from tests.methods.common import DIM, close, gradients, normal, opposed
from tests.samplers import SAMPLERS


def dual_bound(G: Tensor, c: float) -> float:
    """The dual of CAGrad's problem, minimised over the simplex by scipy's SLSQP."""
    g0 = G.mean(0)
    M, first, radius = (G @ G.mT).numpy(), (G @ g0).numpy(), c * float(g0.norm())

    def value(w: Any) -> float:
        return float(w @ first + radius * np.sqrt(max(w @ M @ w, 0)))

    K = len(G)
    starts = [np.full(K, 1 / K), *(0.9 * np.eye(K) + 0.1 / K)]
    sum_one = {"type": "eq", "fun": lambda w: w.sum() - 1}
    options = {"ftol": 1e-14, "maxiter": 500}
    results = [
        minimize(value, w, bounds=[(0, 1)] * K, constraints=[sum_one], options=options)
        for w in starts
    ]
    return min(float(x.fun) for x in results)


def test_it_is_best_for_the_worst_task_in_its_ball() -> None:
    sizes = ((2, 1.0), (2, 10.0), (4, 3.0))
    for (num_tasks, ratio), c, seed in itertools.product(sizes, (0.2, 0.9, 1.0, 1.5), range(3)):
        G = opposed(num_tasks, seed, ratio)
        d, g0 = CAGrad(c=c)(G), G.mean(0)
        assert float((d - g0).norm()) <= c * float(g0.norm()) * (1 + 1e-9)
        bound = dual_bound(G, c)  # no direction in the ball is better
        gain = bound - float((G @ g0).min())  # over the mean gradient, for the worst task
        assert gain > 0.1 * c * float(g0.square().sum())
        assert float((G @ d).min()) == pytest.approx(bound, abs=1e-6 * gain)


def stationary_sets(dtype: torch.dtype) -> dict[str, Tensor]:
    """Gradients of which a convex combination is zero, or nearly."""
    a, b = gradients(2, 3).to(dtype)
    sets = {
        "opposite": torch.stack((a, -2 * a)),
        "opposite and one more": torch.stack((a, -a, b)),
        "dependent": torch.stack((a, b, -a - 0.5 * b)),
        "nearly opposite": torch.stack((a, -a + 1e-5 * b)),
        "equal": torch.stack((a, a, a)),
        "conflicting": SAMPLERS["conflicting"]().to(dtype),
    }
    for num_tasks in (3, 6):
        G = normal(num_tasks, DIM, seed=num_tasks)
        G[-1] = -(torch.linspace(0.2, 1, num_tasks - 1).double() @ G[:-1])
        sets[f"{num_tasks} tasks"] = G.to(dtype)
    return sets


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9, 1.0, 1.5, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_stays_in_its_ball_where_gradients_are_stationary(c: float, dtype: torch.dtype) -> None:
    rounding = 100 * torch.finfo(dtype).eps
    for name, G in stationary_sets(dtype).items():
        bound = dual_bound(G.double(), c)
        for scale in (1e-30, 1.0, 1e25) if dtype == torch.float32 else (1.0,):
            d, g0 = CAGrad(c=c)(G * scale) / scale, G.mean(0)
            off = float((d - g0).norm())
            assert off <= c * float(g0.norm()) * (1 + rounding) + rounding, name
            if c < 1:  # zero lies outside of the ball
                assert float(d.norm()) >= (1 - c) * float(g0.norm()) - rounding, name
            worst = float((G @ d).min())
            assert worst >= bound - 1e-3 * float(G.norm() * g0.norm()) - rounding, name


def test_it_helps_a_third_task_between_two_that_are_opposite() -> None:
    a, b = gradients(2, 3)
    d = CAGrad(c=1.5)(torch.stack((a, -a, b)))
    close(d, (b - (a @ b) * a) / 3, rtol=1e-6, atol=1e-9)


def test_radius_zero_is_the_mean() -> None:
    G = gradients(4, 0, 3.0)
    torch.testing.assert_close(CAGrad(c=0.0)(G), G.mean(0))


def test_a_radius_out_of_range_is_refused() -> None:
    for c, expected in ((-0.1, "at least 0, got -0.1"), (np.nan, "at least 0, got nan")):
        with pytest.raises(ConfigError, match=f"`c` must be {expected}"):
            CAGrad(c=c)
    with pytest.raises(ConfigError, match="`c` must be less than inf, got inf"):
        CAGrad(c=np.inf)
