"""A batch without any label of a task trains as one without the task: every method, bit for bit."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.data.base import Batch
from rotograd_cli.tasks import Task, losses, metrics
from rotograd_cli.training import objective
from rotograd_cli.training.stepper import train_step
from tests.contract.test_methods import build, every_method, make_optimizer, max_num_tasks
from tests.samplers import SIZE

TASKS = (
    Task("value", 1, losses.mean_squared_error, (metrics.mse(),)),
    Task("kind", 3, losses.cross_entropy, (metrics.accuracy(3),)),
    Task("flag", 1, losses.binary_cross_entropy, (metrics.f1(),)),
)
NONE = {"value": math.nan, "kind": -1, "flag": -1}
# tasks without a label, by step and micro-batch
STEPS: tuple[tuple[tuple[str, ...], ...], ...] = (
    ((), ("kind",)),
    (("kind",), ("kind",)),
    (("value", "flag"), ("value",)),
    (("value", "kind", "flag"), ()),
    (("value", "kind", "flag"), ("value", "kind", "flag")),
    ((), ()),
)


def tasks_for(method: str) -> Sequence[Task]:
    return TASKS[: max_num_tasks(method)]


def model_of(method: str) -> Any:
    heads = [nn.Linear(SIZE, task.num_outputs) for task in tasks_for(method)]
    return build(method, heads, nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh())).train()


def batch(seed: int, without: Sequence[str], *, left_out: bool, num: int = 5) -> Batch:
    """Targets that are there; the others have no label in them, or are left out."""
    generator = torch.Generator().manual_seed(seed)
    targets = {
        "value": torch.randn(num, generator=generator) + 2,
        "kind": torch.randint(3, (num,), generator=generator),
        "flag": torch.randint(2, (num,), generator=generator).float(),
    }
    for name in without:
        targets[name] = torch.full_like(targets[name], NONE[name])
        if left_out:
            del targets[name]
    return Batch(torch.randn(num, SIZE, generator=generator), targets)


def trained(method: str, *, left_out: bool, num_micro_batches: int) -> dict[str, Tensor]:
    """The state after all steps, with what the optimisers remember."""
    torch.manual_seed(0)
    model = model_of(method)
    network = torch.optim.Adam(model.model_parameters(), lr=0.05, weight_decay=0.1)
    own = make_optimizer(model)
    optimizers = [network] if own is None else [network, own]
    totals = []
    for step, parts in enumerate(STEPS):
        micro_batches = [
            batch(10 * step + index, without, left_out=left_out)
            for index, without in enumerate(parts[:num_micro_batches])
        ]
        totals.append(train_step(model, tasks_for(method), micro_batches, optimizers))
        if step == 2:
            model.end_epoch()
    moments = [
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
    ]
    named = {str(index): value for index, value in enumerate(moments)}
    return model.state_dict() | named | {"totals": torch.stack(totals)}


@every_method
@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_a_batch_without_a_label_trains_as_one_without_the_task(
    method: str, num_micro_batches: int
) -> None:
    found, expected = (
        trained(method, left_out=left_out, num_micro_batches=num_micro_batches)
        for left_out in (False, True)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@every_method
def test_where_the_device_is_not_waited_for_gradients_are_those_without_the_task(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective.devices, "reads_are_free", lambda device: False)
    steps = [parts for parts in STEPS if not all(len(names) == 3 for names in parts)]
    states: list[dict[str, Any]] = []
    for left_out in (False, True):
        torch.manual_seed(0)
        model = model_of(method)
        network = torch.optim.SGD(model.model_parameters(), lr=0.05)
        own = make_optimizer(model)
        for step, parts in enumerate(steps):
            micro_batches = [
                batch(10 * step + index, without, left_out=left_out)
                for index, without in enumerate(parts)
            ]
            optimizers = [network] if own is None else [network, own]
            train_step(model, tasks_for(method), micro_batches, optimizers)
            model.end_epoch()
        states.append(model.state_dict())
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-6)
