"""GradNorm against the paper's loss of the weights and autograd."""

import copy

import pytest
import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.gradnorm import GradNorm, GradNormWeights
from rotograd_cli.methods.rule import Statistics
from tests.methods.common import gradients
from tests.methods.regression import (
    K,
    TaskLosses,
    assert_same_network,
    data,
    descend,
    losses_of,
    on_network,
    plain,
    sgd_step,
    start_value,
)


def gradnorm(alpha: float = 0.7, burn_in_period: int = 2) -> GradNorm:
    return GradNorm(num_tasks=K, alpha=alpha, burn_in_period=burn_in_period)


def gradnorm_loss(
    w: dict[int, Tensor], norms: dict[int, float], ratios: dict[int, float], alpha: float
) -> Tensor:
    """The paper's loss of the weights, targets constant; dictionaries hold the tasks there are."""
    num = len(w)
    mean_norm = sum(float(w[k].detach()) * norms[k] for k in w) / num
    mean_ratio = sum(ratios.values()) / num
    targets = {k: mean_norm * (ratios[k] / mean_ratio) ** alpha for k in w}
    return torch.stack([(w[k] * norms[k] - targets[k]).abs() for k in w]).sum()


def norms_at(z: Tensor, losses: TaskLosses) -> dict[int, float]:
    there = {k: loss for k, loss in enumerate(losses) if loss is not None}
    grad = torch.autograd.grad
    return {k: float(grad(loss, z, retain_graph=True)[0].norm()) for k, loss in there.items()}


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.5])
def test_it_equals_a_naive_loop_with_autograd(alpha: float) -> None:
    x, y = data()
    model = on_network(gradnorm(alpha))
    naive = copy.deepcopy(model)
    omega = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    seen: list[list[float]] = [[] for _ in range(K)]
    for t in range(7):
        without = [1] if t in (1, 5) else []  # the clock of task 1 stands still
        z, losses = plain(naive, x, y, without)
        norms = norms_at(z, losses)
        for k in norms:
            seen[k].append(float(losses[k].detach()))
        ratios = {k: seen[k][-1] / start_value(seen[k], 2) for k in norms}
        weights = K * omega.softmax(0)
        w = {k: weights[k] for k in norms}
        (slope,) = torch.autograd.grad(gradnorm_loss(w, norms, ratios, alpha), omega)
        joint = torch.stack([w[k].detach() * losses[k] for k in w]).sum()
        network = list(naive.model_parameters())
        descend(network, torch.autograd.grad(joint, network, allow_unused=True))
        descend([omega], [slope])

        sgd_step(model, x, y, without)
        torch.testing.assert_close(model.rule.log_weight, omega, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(model.rule.weight, K * omega.softmax(0))
        assert_same_network(model, naive)
    assert model.rule.weight.detach().sub(1).abs().max() > 0.01


def test_the_weights_descend_the_papers_loss_from_any_state() -> None:
    """The slope knows the targets by their side of the norms alone, hence many states."""
    x, y = data()
    model = on_network(gradnorm(burn_in_period=0))
    rule = model.rule
    model.backward(losses_of(model(x), y))  # so that start values are there
    z, losses = plain(model, x, y)
    norms = norms_at(z, losses)
    generator = torch.Generator().manual_seed(0)
    for alpha in (0.0, 0.5, 2.0):
        for i in range(60):
            without = [i % 4] if i % 4 < K else []
            noise = torch.randn(2, K, generator=generator, dtype=torch.float64).exp()
            values = torch.tensor([float(loss.detach()) for loss in losses]) * noise[0]
            even = torch.tensor([norms[0] / norms[k] for k in range(K)])  # where signs change
            omega = (even * noise[1] ** 0.5).log().requires_grad_()
            rule.alpha = alpha
            rule.initial_losses.values[:] = values
            rule.log_weight.data = omega.detach().clone()
            model.zero_grad()
            model.backward(losses_of(model(x), y, without))
            weights = K * omega.softmax(0)
            w = {k: weights[k] for k in range(K) if k not in without}
            ratios = {k: float(losses[k].detach() / values[k]) for k in w}
            (slope,) = torch.autograd.grad(gradnorm_loss(w, norms, ratios, alpha), omega)
            torch.testing.assert_close(rule.log_weight.grad, slope, rtol=1e-9, atol=1e-12)


def test_with_the_norm_of_the_mean_only_the_level_differs() -> None:
    """RotoGradNorm's rule, at equal rates: the slope is that of autograd with the other target."""
    G = gradients(K, 0, 3.0)
    rule = GradNormWeights(num_tasks=K, alpha=0.0, burn_in_period=0).double()
    omega = torch.tensor([0.3, -0.1, 0.2], dtype=torch.float64, requires_grad=True)
    rule.log_weight.data = omega.detach().clone()
    s = Statistics.of(G)
    w = rule.weights(s)
    mean_norm = (w @ G).norm() / K
    (slope,) = rule.learn(s, w).values()
    loss = (K * omega.softmax(0) * G.norm(dim=1) - mean_norm).abs().sum()
    torch.testing.assert_close(slope, torch.autograd.grad(loss, omega)[0])


@pytest.mark.parametrize("start", [0.0, -0.01])
def test_a_task_that_has_no_rate_of_progress_counts_as_one_at_the_mean(start: float) -> None:
    rule = gradnorm(burn_in_period=0).double()
    present = torch.ones(K, dtype=torch.bool)
    rule.initial_losses.update(torch.tensor([1.0, start, 4.0]), present)
    for value in (0.0, -3.0, 5.0):
        losses = torch.tensor([0.5, value, 1.0], dtype=torch.float64)
        rates = rule.inverse_training_rates(Statistics.of(torch.ones(K, 2), losses))
        expected = torch.tensor([0.5, 0.375, 0.25], dtype=torch.float64) / 0.375
        torch.testing.assert_close(rates, expected)


def test_an_option_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="`burn_in_period` must be at least 0, got -1"):
        gradnorm(burn_in_period=-1)
    for alpha, expected in ((-1.0, "at least 0"), (float("inf"), "less than inf")):
        with pytest.raises(ConfigError, match=f"`alpha` must be {expected}"):
            gradnorm(alpha)
