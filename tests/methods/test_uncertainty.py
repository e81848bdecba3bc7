"""Uncertainty weighting against torchjd and its optimum."""

import copy

import pytest
import torch
from torchjd import scalarization

from rotograd_cli.methods.rule import Losses
from rotograd_cli.methods.uncertainty import UncertaintyWeighting
from tests.methods.regression import (
    K,
    assert_same_network,
    data,
    descend,
    on_network,
    plain,
    sgd_step,
)

PRESENT = torch.ones(K, dtype=torch.bool)


def test_it_is_torchjds_trained_jointly() -> None:
    x, y = data()
    model = on_network(UncertaintyWeighting(num_tasks=K))
    naive, oracle = copy.deepcopy(model), scalarization.UW(K).double()
    for _ in range(6):
        sgd_step(model, x, y)
        _, losses = plain(naive, x, y)
        everything = [*naive.model_parameters(), oracle.log_var]
        descend(everything, torch.autograd.grad(oracle(torch.stack(losses)), everything))
        torch.testing.assert_close(model.rule.log_variance, oracle.log_var, rtol=1e-11, atol=1e-13)
        assert_same_network(model, naive)


def test_log_variances_of_constant_losses_settle_at_the_logarithms_of_the_losses() -> None:
    rule = UncertaintyWeighting(num_tasks=K).double()
    optimizer = torch.optim.SGD(rule.parameters(), lr=1.0)
    values = torch.tensor([0.2, 1.0, 30.0], dtype=torch.float64)
    for _ in range(200):
        for parameter, gradient in rule.learn_from_losses(Losses(values, PRESENT)).items():
            parameter.grad = gradient
        optimizer.step()
    torch.testing.assert_close(rule.log_variance.detach(), values.log(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, -2.0, float("inf"), float("nan")])
def test_a_loss_without_an_optimum_leaves_its_log_variance_alone(value: float) -> None:
    rule = UncertaintyWeighting(num_tasks=K)
    (gradient,) = rule.learn_from_losses(Losses(torch.tensor([0.2, value, 30.0]), PRESENT)).values()
    expected = torch.tensor([0.5 - 0.5 * 0.2, 0, 0.5 - 0.5 * 30])
    torch.testing.assert_close(gradient, expected)
