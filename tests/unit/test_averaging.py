"""The moving average of the weights, against the sum that it stands for."""

import copy

import pytest
import torch
from torch import nn

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods import DBMTL, MultiTaskMethod, RotoGrad, VanillaMTL
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.losses import mean_squared_error
from rotograd_cli.training.averaging import WeightAverage
from rotograd_cli.training.stepper import train_step


def networks() -> tuple[nn.Module, list[nn.Module]]:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    mask = torch.tensor([0.0, -torch.inf])
    backbone.register_buffer("mask", mask)  # as attention adds to its logits
    return backbone, [nn.Linear(4, 1), nn.Linear(4, 2)]


def test_weights_and_running_statistics_are_averaged_and_all_else_is_copied() -> None:
    model = VanillaMTL(*networks()).double()
    average = WeightAverage(model, decay=0.75)
    states = []
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
            model.train()(torch.randn(6, 3).double())
        average.update(model)
        states.append(copy.deepcopy(model.state_dict()))
    # closed form: the first with weight d^4, the others with (1 - d) d^(age)
    shares = [0.75**4, *(0.25 * 0.75**age for age in (3, 2, 1, 0))]
    found = average.model.state_dict()
    for name, value in found.items():
        is_averaged = name.endswith(("weight", "bias", "running_mean", "running_var"))
        expected = states[-1][name]
        if is_averaged:
            expected = sum(s * state[name] for s, state in zip(shares, states, strict=True))
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    assert found["backbone.1.num_batches_tracked"] == 5
    assert average.num_updates == 5


def test_buffers_that_the_first_step_makes_are_copied_too() -> None:
    """The moving averages of DB-MTL, whose size is that of the gradients."""
    rule = DBMTL(num_tasks=2, beta=0.5)
    model = MultiTaskMethod(*networks(), rule, gradients="parameters")
    average = WeightAverage(model, decay=0.5)
    for _ in range(2):
        model.backward([p.square().mean() for p in model.train()(torch.randn(6, 3))])
        average.update(model)
    assert rule.average.any()
    for name, value in average.model.rule.state_dict().items():
        assert torch.equal(value, rule.state_dict()[name])


def test_the_average_of_free_parameters_is_a_rotation_with_a_constant_base_alone() -> None:
    model = RotoGrad(*networks(), 4)
    average = WeightAverage(model, decay=0.5)
    for _ in range(3):
        with torch.no_grad():
            parameters = model.rotations.free_parameters
            parameters.add_(torch.randn_like(parameters))
        average.update(model)
    R = average.model.rotations.matrices
    torch.testing.assert_close(R @ R.mT, torch.eye(4).expand(2, 4, 4))
    with average.model.evaluating():  # checks the bases
        average.model(torch.randn(2, 3))
    moving = RotoGrad(*networks(), 4, rebase_every=10)
    with pytest.raises(ConfigError, match=r"got method.rebase_every=10; add method.rebase_every="):
        WeightAverage(moving, decay=0.5)


def test_a_batch_without_any_label_is_no_update() -> None:
    """No optimiser takes a step; the average would drift towards weights that did not move."""
    model = VanillaMTL(*networks()).train()
    tasks = [Task(name, 1, mean_squared_error, ()) for name in ("a", "b")]
    average = WeightAverage(model, decay=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(6, 3)
    labelled = Batch(x, {"a": torch.zeros(6)})
    train_step(model, tasks, [labelled], [optimizer], average=average)
    train_step(model, tasks, [Batch(x, {})], [optimizer], average=average)
    assert average.num_updates == 1
