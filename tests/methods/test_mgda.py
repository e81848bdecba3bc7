"""MGDA against all faces of the hull, the conditions of the minimum and the closed form for two."""

import itertools

import pytest
import torch
from torch import Tensor

from rotograd_cli.methods.mgda import MGDA
from rotograd_cli.methods.rule import Statistics
from tests.methods.common import DIM, close, gradients, normal


def shortest_by_faces(G: Tensor) -> Tensor:
    """Shortest point of the convex hull: the best of all faces' own shortest points."""
    best = G[0]
    for size in range(1, len(G) + 1):
        for face in itertools.combinations(range(len(G)), size):
            A = G[list(face)]
            w = torch.linalg.pinv(A @ A.mT) @ torch.ones(size, dtype=G.dtype)
            w = w / w.sum()
            point = w @ A
            if (w >= -1e-12).all() and point.norm() < best.norm():
                best = point
    return best


def test_it_is_the_shortest_of_all_faces_shortest_points() -> None:
    for num_tasks, ratio, seed in itertools.product((2, 3, 5), (1.0, 10.0, 1e3), range(10)):
        shift = normal(1, DIM, seed=99) * 0.05 * (seed % 3)  # so that not all tasks take part
        G = gradients(num_tasks, seed, ratio) + shift
        expected = shortest_by_faces(G)
        close(MGDA()(G), expected, atol=1e-9 * float(expected.norm()))


def test_it_meets_the_conditions_of_the_minimum() -> None:
    """With w on the simplex and d = Σ wₖgₖ: ⟨gₖ, d⟩ ≥ ‖d‖², with equality where wₖ > 0."""
    for num_tasks, ratio in ((2, 1e6), (5, 1e3), (12, 1.0), (40, 1e2)):
        for seed in range(5):
            G = gradients(num_tasks, seed, ratio) + 0.02 * seed * normal(1, DIM, seed=99)
            w = MGDA().weights(Statistics.of(G))
            d = w @ G
            assert (w >= 0).all()
            assert float(w.sum()) == pytest.approx(1)
            products = (G @ d) / (d @ d)
            assert float(products.min()) >= 1 - 1e-8
            torch.testing.assert_close(products[w > 1e-9], torch.ones_like(products[w > 1e-9]))


def test_two_tasks_have_the_closed_form() -> None:
    for seed, factor in itertools.product(range(10), (0.01, 0.5, 1.0, 2.0, 100.0)):
        a, b = gradients(2, seed) * torch.tensor([[1.0], [factor]], dtype=torch.float64)
        share = ((b - a) @ b / (a - b).square().sum()).clamp(0, 1)
        expected = share * a + (1 - share) * b
        close(MGDA()(torch.stack((a, b))), expected, atol=1e-10 * float(expected.norm()))


def test_no_improvement_without_harm_is_no_step() -> None:
    G = gradients(3, 0)
    inside = torch.cat((G, -0.3 * G.sum(0, keepdim=True)))
    assert MGDA()(inside).norm() < 1e-12
