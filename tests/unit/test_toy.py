"""The toy problems: formulas, optima, metric, refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from rotograd_cli.data.toy import LOSSES, OPTIMA, Problem, Toy, bowl, mean_loss, waves
from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.methods import VanillaMTL
from rotograd_cli.models.backbones.toy import ToyNetwork
from rotograd_cli.models.heads import IdentityHead
from rotograd_cli.report.measured import measure

STARTS = torch.tensor([[0.3, -0.2], [1.1, 0.4], [-2.0, 1.7], [1.5, 1.2]], dtype=torch.float64)


def dataset(problem: Problem = "nonconvex", num_copies: int = 4) -> Toy:
    device = torch.device("cpu")
    return Toy(data_dir=Path(), tasks=None, device=device, problem=problem, num_copies=num_copies)


def authors_loss(z: Tensor, sign: float) -> Tensor:
    """The formula of the paper and of the authors' example/tasks.py, with its division."""
    a, b = z[..., 0] + sign * 1.5, z[..., 1] + sign * 1.5
    return -(torch.sin(3 * a) / a + torch.sin(3 * b) / b) + a.abs() + b.abs()


def test_losses_and_gradients_of_the_nonconvex_problem_are_those_of_the_authors_example() -> None:
    for sign, optimum in zip((-1.0, 1.0), OPTIMA["nonconvex"], strict=True):
        z = (STARTS + 1e-3).requires_grad_()  # 1.5 itself divides zero by zero there
        ours = waves(z - torch.tensor(optimum))
        theirs = authors_loss(z, sign)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        for one, other in zip(
            *(torch.autograd.grad(f.sum(), z) for f in (ours, theirs)), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_loss_is_smallest_at_the_optimum_and_finite_there() -> None:
    smallest = {"convex": 0.0, "nonconvex": -6.0}  # sin(3u)/u tends to 3 on both axes
    for problem, loss in LOSSES.items():
        best = optimize.brute(
            lambda u, loss=loss: float(loss(torch.tensor(u))), ((-3, 3), (-3, 3)), Ns=25
        )
        assert np.abs(best).max() < 1e-3
        u = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        value = loss(u)
        assert value.item() == pytest.approx(smallest[problem], abs=1e-12)
        (gradient,) = torch.autograd.grad(value, u)
        assert gradient.tolist() == [0, 0]


def test_convex_loss_has_the_gradient_of_its_formula() -> None:
    u = STARTS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(bowl(u).sum(), u)
    torch.testing.assert_close(gradient, STARTS * torch.tensor([2.0, 8.0]))


def test_optima_of_a_problem_have_the_same_norm_so_that_rotations_can_join_them() -> None:
    for left, right in OPTIMA.values():
        assert math.hypot(*left) == pytest.approx(math.hypot(*right))
        assert left != right


def test_metric_is_the_mean_distance_from_the_optimum() -> None:
    data = dataset()
    batch = data.batch("test", torch.arange(4))
    task = data.tasks[0]
    points = STARTS.float()
    metric = task.metrics[0].create()
    for rows in (slice(0, 3), slice(3, 4)):
        metric.update(task.metrics[0].prepare(points[rows]), batch.targets["left"][rows])
    expected = np.linalg.norm(points.numpy() - np.array(OPTIMA["nonconvex"][0]), axis=1).mean()
    assert task.metrics[0].value(metric.compute()).item() == pytest.approx(expected, rel=1e-6)


def test_report_shows_answers_of_several_numbers_and_draws_no_scatter_plot_of_them() -> None:
    backbone = ToyNetwork(input_shape=(2,), hidden=3, num_features=2)
    heads = [IdentityHead(feature_shape=(2,), num_outputs=2) for _ in range(2)]
    model = VanillaMTL(backbone, heads)
    found = measure(
        model, dataset(), "test", checkpoint="best", evaluated=4, limit=None, num_examples=2,
        batch_size=3,
    )  # fmt: skip
    assert (found.pairs, found.kinds) == ({}, {"left": "number", "right": "number"})
    assert len(found.examples) == 2


def test_wrong_options_and_shapes_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="`problem` must be convex or nonconvex, got 'concave'"):
        dataset("concave")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`num_copies` must be at least 1, got 0"):
        dataset(num_copies=0)
    with pytest.raises(ConfigError, match=r"features of shape \[2\].*got \[50\]; set backbone"):
        IdentityHead(feature_shape=(50,), num_outputs=2)
    with pytest.raises(ShapeError):
        mean_loss(torch.zeros(3, 2), torch.zeros(3), problem="convex")
