"""Dynamic weight average against torchjd."""

import copy

import pytest
import torch
from torch import Tensor
from torchjd import scalarization

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.dwa import DynamicWeightAverage
from rotograd_cli.methods.rule import Losses
from tests.methods.regression import K, assert_same_network, data, naive_step, on_network, sgd_step


def dwa(temperature: float = 1.0) -> DynamicWeightAverage:
    return DynamicWeightAverage(num_tasks=K, temperature=temperature)


def note(rule: DynamicWeightAverage, values: list[float], without: int | None = None) -> None:
    """One step with these losses."""
    present = torch.ones(K, dtype=torch.bool)
    if without is not None:
        present[without] = False
    rule.factors(Losses(torch.tensor(values), present))


def test_it_is_torchjds_over_epochs() -> None:
    x, y = data()
    model = on_network(dwa(0.5))
    naive, oracle = copy.deepcopy(model), scalarization.DWA(0.5)
    weights: list[Tensor] = []
    for _ in range(5):
        for i in range(3):
            part = slice(2 * i, 2 * i + 3)
            sgd_step(model, x[part], y[part])
            naive_step(naive, lambda losses: oracle(torch.stack(losses)), x[part], y[part])
        model.end_epoch()
        oracle.step()
        weights.append(model.rule.weight)
        assert_same_network(model, naive)
    assert torch.equal(weights[0], torch.ones(K, dtype=torch.float64))  # of the second epoch
    assert (weights[-1] - 1).abs().max() > 0.01
    assert float(weights[-1].sum()) == pytest.approx(K)


def test_an_epoch_without_a_task_gives_it_a_ratio_of_one() -> None:
    rule = dwa()
    note(rule, [1.0, 2.0, 3.0])
    rule.end_epoch()
    note(rule, [9.0, 1.0, 6.0], without=0)
    rule.end_epoch()
    rates = torch.tensor([1.0, 0.5, 2.0])
    torch.testing.assert_close(rule.weight, K * rates.softmax(0))


def test_the_mean_of_an_epoch_is_over_the_steps_in_which_the_task_had_a_loss() -> None:
    rule = dwa()
    note(rule, [1.0, 2.0, 3.0])
    note(rule, [2.0, 9.0, 5.0], without=1)
    note(rule, [3.0, 9.0, 1.0], without=1)
    rule.end_epoch()
    torch.testing.assert_close(rule.means[1], torch.tensor([2.0, 2.0, 3.0]))


@pytest.mark.parametrize("last", [float("inf"), -1e-9, -5.0, -2.0])
def test_a_loss_that_has_no_ratio_counts_as_one(last: float) -> None:
    rule = dwa()
    for bad in (0.0, last):
        note(rule, [2 + bad, 1.0, 3.0])
        rule.end_epoch()
    torch.testing.assert_close(rule.weight, torch.ones(K))


def test_a_run_resumed_inside_an_epoch_has_the_same_weights() -> None:
    x, y = data()
    model = on_network(dwa(2.0))
    for t in range(5):
        sgd_step(model, x, y)
        if t in (1, 3):
            model.end_epoch()
    other = on_network(dwa(2.0))
    other.load_state_dict(model.state_dict())
    for each in (model, other):
        sgd_step(each, x, y)
        each.end_epoch()
    assert torch.equal(model.rule.weight, other.rule.weight)
    assert_same_network(model, other, rtol=0, atol=0)


def test_a_temperature_that_is_not_positive_is_refused() -> None:
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="`temperature` must be more than 0, got"):
            dwa(temperature)
