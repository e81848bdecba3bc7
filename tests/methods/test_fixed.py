"""Fixed weights against autograd, and weights by name."""

import copy

import pytest
import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.fixed import FixedWeights
from tests.methods.regression import K, assert_same_network, data, naive_step, on_network, sgd_step

NAMES = ("left", "right", "sum")


def weighted_sum(losses: list[Tensor]) -> Tensor:
    return 2 * losses[0] + 0.25 * losses[1] + 0.5 * losses[2]


def test_everything_descends_the_weighted_sum() -> None:
    x, y = data()
    model = on_network(FixedWeights(num_tasks=K, weights=[2, 0.25, 0.5]))
    naive = copy.deepcopy(model)
    for _ in range(3):
        sgd_step(model, x, y)
        naive_step(naive, weighted_sum, x, y)
    assert_same_network(model, naive)


def test_a_task_that_is_not_named_has_the_weight_one() -> None:
    for weights, expected in (
        ({"sum": 0.1, "left": 2}, [2, 1, 0.1]),
        ({}, [1, 1, 1]),
        (None, [1, 1, 1]),
    ):
        rule = FixedWeights(num_tasks=K, weights=weights, task_names=NAMES)
        torch.testing.assert_close(rule.weight, torch.tensor(expected).float())


def test_wrong_weights_are_refused() -> None:
    for weights, message in (
        ({"lft": 2.0}, r"`weights.lft` must name a task of this run, .* left, right, sum; correct"),
        ({"sum": -1.0}, r"`weights.sum` must be at least 0, got -1"),
        ({"sum": float("nan")}, r"`weights.sum` must be at least 0, got nan"),
        ([1.0, 2.0], r"`weights` must hold one number per task, 3, got 2; name the tasks"),
        ([], r"`weights` must hold one number per task, 3, got 0; name the tasks"),
        ([1.0, float("inf"), 1.0], r"`weights` must be less than inf, got inf"),
    ):
        with pytest.raises(ConfigError, match=message):
            FixedWeights(num_tasks=K, weights=weights, task_names=NAMES)
