"""Single-task training against Vanilla."""

import pytest
import torch

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods import VanillaMTL
from rotograd_cli.methods.single import SingleTask
from tests.methods.regression import data, losses_of, networks


def test_it_is_vanilla_with_that_task_bit_for_bit() -> None:
    x, y = (t.float() for t in data())
    models = [kind(*networks(1)) for kind in (SingleTask, VanillaMTL)]
    for model in models:
        optimizer = torch.optim.Adam(model.model_parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            model.backward(losses_of(model(x), y))
            optimizer.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(models[0].heads[0].weight, networks(1)[1][0].weight)


def test_several_tasks_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"for 1 task, got 3 tasks; choose one with tasks=\[NAME"):
        SingleTask(*networks(3))
