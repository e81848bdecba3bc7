"""PIVRG against its equation, and what the loop tells rules of evaluations."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.fairgrad import FairGrad
from rotograd_cli.methods.pivrg import PIVRG
from rotograd_cli.methods.rule import Evaluation, Measured
from tests.methods.common import close, gradients

NAMES = ("left", "sum", "pixels")
BASELINES = {"left": {"accuracy": 0.8, "loss": 0.5}, "sum": {"mse": 4.0}, "pixels": {"mse": 0.2}}


def pivrg(min_temperature: float = 10.0, bound: float = 2.0) -> PIVRG:
    return PIVRG(
        num_tasks=3,
        task_names=NAMES,
        baselines=BASELINES,
        bound=bound,
        min_temperature=min_temperature,
    )


def evaluation(accuracy: float, loss: float, mse: Sequence[float]) -> Evaluation:
    return [
        {"accuracy": Measured(accuracy, "higher"), "loss": Measured(loss, "lower")},
        *({"mse": Measured(value, "lower"), "loss": Measured(value, "lower")} for value in mse),
    ]


def naive_shares(drops: Sequence[float], bound: float, least: float) -> list[float]:
    """As the authors' code computes them."""
    temperature = max((max(drops) - min(drops)) / math.log(bound), least)
    powers = [math.exp((drop - max(drops)) / temperature) for drop in drops]
    return [len(drops) * power / sum(powers) for power in powers]


@pytest.mark.parametrize(("bound", "least"), [(2.0, 10.0), (3.0, 1e-3), (1.5, 500.0)])
def test_the_weights_solve_the_equation_of_the_drops(bound: float, least: float) -> None:
    rule = pivrg(least, bound)
    rule.observe_evaluation(evaluation(0.6, 0.75, [5.0, 0.1]))
    drops = [(25 + 50) / 2, 25, -50]
    torch.testing.assert_close(rule.diagnostics()["drop"], torch.tensor(drops).double())
    p = torch.tensor(naive_shares(drops, bound, least)).double()
    assert p.max() / p.min() <= bound * (1 + 1e-12)
    G = gradients(3, 0, 3.0)
    G = G / G.norm(dim=1).amax()
    weights = torch.linalg.lstsq(G.mT, rule(G)).solution
    close(G @ G.mT @ weights, (p / weights).sqrt(), atol=1e-6)


def test_it_is_fairgrad_before_anything_is_evaluated() -> None:
    G = gradients(3, 1, 10.0)
    assert torch.equal(pivrg()(G), FairGrad(alpha=2.0)(G))


def test_a_task_without_labels_in_the_evaluation_keeps_its_drop() -> None:
    rule = pivrg()
    rule.observe_evaluation(evaluation(0.6, 0.75, [5.0, 0.1]))
    rule.observe_evaluation(evaluation(math.nan, 0.5, [math.inf, 0.2]))
    assert rule.diagnostics()["drop"].tolist() == pytest.approx([37.5, 25, 0])


def test_shares_are_of_the_tasks_that_take_part() -> None:
    rule = pivrg()
    rule.observe_evaluation(evaluation(0.6, 0.75, [5.0, 0.1]))
    p: Tensor = rule.shares(torch.tensor([0, 1]))
    assert p.tolist() == pytest.approx(naive_shares([37.5, 25], 2.0, 10.0))


def test_baselines_that_do_not_fit_the_tasks_are_refused() -> None:
    nothing = evaluation(math.nan, math.nan, [math.nan] * 2)
    for baselines, message in (
        (None, r"`baselines.left` must hold .* add \+method.baselines.left.accuracy=VALUE"),
        ({**BASELINES, "sum": {}}, r"add \+method.baselines.sum.mse=VALUE"),
        ({**BASELINES, "sum": {"f1": 1.0}}, r"`baselines.sum.f1` must be a metric of task 'sum'"),
        ({**BASELINES, "sum": {"mse": 0.0}}, r"`baselines.sum.mse` .* not 0, got 0.0; correct it"),
        ({"lft": {"accuracy": 1.0}}, r"`baselines.lft` must name a task of this run, which are"),
    ):
        with pytest.raises(ConfigError, match=message):
            PIVRG(num_tasks=3, task_names=NAMES, baselines=baselines).observe_evaluation(nothing)
