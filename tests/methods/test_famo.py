"""FAMO against torchjd and the factors by hand."""

import copy

import pytest
import torch
from torch import Tensor
from torchjd import scalarization

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.famo import FAMO
from rotograd_cli.methods.rule import Losses
from tests.methods.regression import (
    K,
    assert_same_network,
    data,
    descend,
    losses_of,
    naive_step,
    on_network,
    plain,
)

PRESENT = torch.ones(K, dtype=torch.bool)
HALF = 0.5 * (1 - 0.5) * torch.tensor(2.0).log()  # slope of a softmax of two, for a gain of ln 2


def famo(gamma: float = 1e-3) -> FAMO:
    return FAMO(num_tasks=K, gamma=gamma)


def factors(rule: FAMO, *values: float, present: Tensor = PRESENT) -> list[float]:
    """The factors of losses with these values."""
    numbers: list[float] = rule.factors(Losses(torch.tensor(values), present)).tolist()
    return numbers


def test_it_is_torchjds_with_adam() -> None:
    x, y = data()
    model = on_network(famo())
    naive, oracle = copy.deepcopy(model), scalarization.FAMO(K, weight_decay=1e-3).double()
    adam = torch.optim.Adam(model.mtl_parameters(), lr=0.025)
    for _ in range(10):
        network = list(model.model_parameters())
        model.zero_grad()
        losses = losses_of(model(x), y)
        model.backward(losses)
        descend(network, [p.grad for p in network])
        before = torch.stack([loss.detach() for loss in losses if loss is not None])
        after = torch.stack(plain(model, x, y)[1]).detach()
        adam.zero_grad()
        model.observe_update(before, after, PRESENT)
        adam.step()
        naive_step(naive, lambda losses: oracle(torch.stack(losses)), x, y)
        oracle.update(torch.stack(plain(naive, x, y)[1]))
        # torchjd adds 1e-8 to losses, which are 0.1 to 20 here
        torch.testing.assert_close(model.rule.logits, oracle._w, rtol=1e-5, atol=1e-7)
        assert_same_network(model, naive, rtol=1e-6, atol=1e-8)
    assert model.rule.logits.detach().abs().max() > 0.05


def test_an_absent_task_is_left_out_and_the_others_have_factors_with_sum_one() -> None:
    rule = famo(gamma=0.0)
    present = torch.tensor([True, False, True])
    first, absent, third = factors(rule, 2.0, 0.0, 3.0, present=present)
    assert (first, third) == pytest.approx((3 / 5, 2 / 5))
    assert absent == 0
    before, after = torch.tensor([2.0, 0.0, 3.0]), torch.tensor([1.0, 0.0, 3.0])
    (gradient,) = rule.learn_from_update(before, after, present).values()
    torch.testing.assert_close(gradient, HALF * torch.tensor([1.0, 0.0, -1.0]))


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 0.0, -1.0, 1e-20])
def test_a_loss_without_a_logarithm_around_the_update_leaves_its_logit_alone(bad: float) -> None:
    for before, after in ((1.0, bad), (bad, 1.0)):
        losses = torch.tensor([1.0, before, 1.0]), torch.tensor([1.0, after, 0.5])
        (gradient,) = famo(gamma=0.1).learn_from_update(*losses, PRESENT).values()
        torch.testing.assert_close(gradient, HALF * torch.tensor([-1.0, 0.0, 1.0]))


@pytest.mark.parametrize("value", [0.0, 1e-12, -1e-12, -3.0])
def test_a_loss_without_a_logarithm_is_trained_plainly_and_beside_the_others(value: float) -> None:
    rule = famo()
    assert factors(rule, 1.0, 2.0, 4.0) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert factors(rule, 1.0, value, 4.0) == pytest.approx([4 / 5, 1 / 3, 1 / 5])
    assert factors(rule, value, value, value) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("unit", [1e-30, 1e25])
def test_the_unit_of_a_loss_does_not_matter(unit: float) -> None:
    rule = famo()
    for value in (3.0, 1e-3):
        first, second, third = factors(rule, 1.0, value * unit, 1.0)
        assert first == pytest.approx(third, rel=1e-5, abs=0)
        assert second * value * unit == pytest.approx(first, rel=1e-5, abs=0)


def test_a_negative_loss_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    rule = famo()
    for value in (1.0, 0.0, -1.0, -2.0):
        factors(rule, 1.0, value, 1.0)
        rule.refresh()
    (record,) = caplog.records
    assert "`losses[1]` became negative" in record.message


def test_a_negative_decay_is_refused() -> None:
    for gamma in (-1e-3, float("nan")):
        with pytest.raises(ConfigError, match="`gamma` must be at least 0, got"):
            famo(gamma)
