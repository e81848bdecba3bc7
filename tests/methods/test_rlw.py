"""Random loss weighting against torchjd."""

import copy

import pytest
import torch
from torchjd import scalarization

from rotograd_cli.methods.rlw import RandomLossWeighting
from rotograd_cli.methods.rule import Losses
from tests.methods.regression import assert_same_network, data, naive_step, on_network, sgd_step


def test_it_is_torchjds_with_the_same_random_numbers() -> None:
    x, y = data()
    model = on_network(RandomLossWeighting())
    naive, oracle = copy.deepcopy(model), scalarization.Random()
    torch.manual_seed(5)
    for _ in range(4):
        sgd_step(model, x, y)
    torch.manual_seed(5)
    for _ in range(4):
        naive_step(naive, lambda losses: oracle(torch.stack(losses)), x, y)
    assert_same_network(model, naive)


def test_weights_have_sum_one_over_the_tasks_that_are_there() -> None:
    present = torch.tensor([True, False, True])
    factors = RandomLossWeighting().factors(Losses(torch.tensor([1.0, 0.0, -1.0]), present))
    assert factors[1] == 0
    assert (factors[present] > 0).all()
    assert float(factors.sum()) == pytest.approx(1)
