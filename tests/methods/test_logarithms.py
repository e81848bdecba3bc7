"""Rules that weigh logarithms of losses, against autograd on their objectives and torchjd."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torchjd import scalarization

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.gls import GeometricLoss
from rotograd_cli.methods.rule import Losses, LossWeighting
from rotograd_cli.methods.si import ScaleInvariant
from rotograd_cli.methods.stch import STCH
from tests.methods.regression import (
    K,
    assert_same_network,
    data,
    naive_step,
    on_network,
    plain,
    sgd_step,
)


def factors(rule: LossWeighting, *values: float, without: Sequence[int] = ()) -> list[float]:
    """The factors of losses with these values."""
    present = torch.tensor([k not in without for k in range(K)])
    numbers: list[float] = rule.factors(Losses(torch.tensor(values), present)).tolist()
    return numbers


def sum_of_logarithms(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).log().sum()


geometric_mean = scalarization.GeometricMean()
OBJECTIVES: list[tuple[LossWeighting, Callable[[list[Tensor]], Tensor]]] = [
    (ScaleInvariant(num_tasks=K), sum_of_logarithms),
    (GeometricLoss(num_tasks=K), lambda losses: geometric_mean(torch.stack(losses))),
]


@pytest.mark.parametrize(("rule", "objective"), OBJECTIVES, ids=["si", "gls"])
def test_everything_descends_the_objective(
    rule: LossWeighting, objective: Callable[[list[Tensor]], Tensor]
) -> None:
    x, y = data()
    model = on_network(copy.deepcopy(rule))
    naive = copy.deepcopy(model)
    for _ in range(4):
        sgd_step(model, x, y)
        naive_step(naive, objective, x, y)
    assert_same_network(model, naive)


def test_the_smooth_maximum_is_torchjds_after_the_warm_up() -> None:
    x, y = data()
    mu = 0.3
    model = on_network(STCH(num_tasks=K, mu=mu, warmup_epochs=2))
    naive = copy.deepcopy(model)
    oracle = scalarization.STCH(mu, weights=torch.ones(K, dtype=torch.float64))
    nadir = torch.ones(K, dtype=torch.float64)

    def smooth_maximum(losses: list[Tensor]) -> Tensor:
        result: Tensor = K * oracle((torch.stack(losses) / nadir).log())
        return result

    for epoch in range(4):
        seen = []
        for i in range(3):
            part = slice(2 * i, 2 * i + 3)
            seen.append(torch.stack(plain(naive, x[part], y[part])[1]).detach())
            naive_step(naive, sum_of_logarithms if epoch < 2 else smooth_maximum, x[part], y[part])
            sgd_step(model, x[part], y[part])
        model.end_epoch()
        if epoch == 1:  # the last epoch of the warm-up
            nadir = torch.stack(seen).mean(0)
        assert_same_network(model, naive)
    torch.testing.assert_close(model.rule.nadir, nadir)


def test_a_run_resumed_inside_the_last_warm_up_epoch_has_the_same_nadir() -> None:
    x, y = data()
    model = on_network(STCH(num_tasks=K, warmup_epochs=1))
    sgd_step(model, x, y)
    other = on_network(STCH(num_tasks=K, warmup_epochs=1))
    other.load_state_dict(model.state_dict())
    for each in (model, other):
        sgd_step(each, x, y)
        each.end_epoch()
        sgd_step(each, x, y)
    assert_same_network(model, other, rtol=0, atol=0)


def test_a_task_absent_in_the_last_warm_up_epoch_keeps_an_earlier_mean() -> None:
    rule = STCH(num_tasks=K, warmup_epochs=2)
    for epoch, values in enumerate(([4.0, 9.0, 8.0], [2.0, 9.0, 2.0])):
        factors(rule, *values, without=[1, 2] if epoch else [1])
        rule.end_epoch()
    assert rule.nadir.tolist() == [2, 0, 8]
    # 1 and 3 times the nadir, and one that has none and whose logarithm is added
    assert factors(rule, 2.0, 5.0, 24.0) == pytest.approx([2 * 0.25 / 2, 1 / 5, 2 * 0.75 / 24])
    rule.end_epoch()
    assert rule.nadir.tolist() == [2, 5, 8]


@pytest.mark.parametrize("value", [0.0, 1e-12, -1e-12, -3.0])
def test_a_loss_without_a_logarithm_is_trained_plainly_and_beside_the_others(value: float) -> None:
    for rule, first, other, plainly in (
        (ScaleInvariant(num_tasks=K), 1.0, 0.25, 1.0),
        (GeometricLoss(num_tasks=K), 1.0, 0.25, 1 / 3),
        (STCH(num_tasks=K), 1.0, 0.25, 1.0),
    ):
        factors(rule, 1.0, 2.0, 4.0)
        if isinstance(rule, GeometricLoss):  # the mean of 1 and 4, over two
            first, other = 2 / (2 * 1), 2 / (2 * 4)
        assert factors(rule, 1.0, value, 4.0) == pytest.approx([first, plainly, other])


def test_a_negative_loss_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    rule = ScaleInvariant(num_tasks=K)
    for value in (1.0, -1.0, -2.0):
        factors(rule, 1.0, value, 1.0)
        rule.refresh()
    (record,) = caplog.records
    assert "ScaleInvariant takes logarithms of losses, and `losses[1]` became" in record.message


def test_options_out_of_range_are_refused() -> None:
    for option, value in (("mu", 0.0), ("mu", float("nan")), ("warmup_epochs", 0)):
        with pytest.raises(ConfigError, match=f"`{option}` must be"):
            STCH(num_tasks=K, **{option: value})  # type: ignore[arg-type]


def test_a_run_that_ends_with_the_warm_up_of_stch_says_so() -> None:
    rule = STCH(num_tasks=K, warmup_epochs=2)
    (note,) = rule.notes(2)
    assert note == "no epoch after the warm-up (warmup_epochs=2), so trained as SI"
    assert rule.notes(3) == ()
