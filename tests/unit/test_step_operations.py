"""What a training step adds to the loop that a user would write: operations, never seconds."""

from collections.abc import Callable
from itertools import chain

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.data.base import Batch
from rotograd_cli.methods import MultiTaskMethod, RotoGrad, RotoGradNorm, VanillaMTL
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.losses import binary_cross_entropy, cross_entropy, mean_squared_error
from rotograd_cli.tasks.task import always_labelled
from rotograd_cli.training.stepper import train_step
from tests.counting import CountOperations

SIZE = 8
LOSSES = {  # those of the five tasks on two digits, with the sizes of their predictions
    "left": (10, cross_entropy),
    "right": (10, cross_entropy),
    "sum": (1, mean_squared_error),
    "parity": (1, binary_cross_entropy),
    "pixels": (1, mean_squared_error),
}
TASKS = always_labelled(Task(name, num, loss, ()) for name, (num, loss) in LOSSES.items())


def networks() -> tuple[nn.Module, list[nn.Module]]:
    heads = [
        nn.Sequential(nn.Linear(SIZE, SIZE), nn.ReLU(), nn.Linear(SIZE, task.num_outputs))
        for task in TASKS
    ]
    return nn.Linear(SIZE, SIZE), list(heads)


def batch() -> Batch:
    targets = {
        name: torch.rand(4) if loss is mean_squared_error else torch.tensor([0, 1, 1, 0])
        for name, (_, loss) in LOSSES.items()
    }
    return Batch(torch.randn(4, SIZE), targets)


def num_operations(step: Callable[[], object], optimizer: torch.optim.Optimizer) -> int:
    """Count the operations of a step after the first ones, without those of the optimiser."""
    for _ in range(3):  # optimisers make their state in the first, start values are final after two
        step()
        optimizer.step()
        optimizer.zero_grad()
    with CountOperations() as operations:
        step()
    return operations.num


def bare_operations() -> int:
    backbone, heads = networks()
    optimizer = torch.optim.SGD(chain(backbone.parameters(), *(h.parameters() for h in heads)))
    data = batch()

    def step() -> None:
        z = backbone(data.inputs)
        losses: list[Tensor] = [
            task.loss(head(z), data.targets[task.name])
            for task, head in zip(TASKS, heads, strict=True)
        ]
        sum(losses, start=torch.zeros(())).backward()

    return num_operations(step, optimizer)


def test_losses_that_leave_elements_out_take_few_operations() -> None:
    assert bare_operations() <= 270


@pytest.mark.parametrize(("kind", "most"), [(VanillaMTL, 17), (RotoGrad, 205), (RotoGradNorm, 222)])
def test_a_step_adds_few_operations_to_a_bare_loop(kind: type[MultiTaskMethod], most: int) -> None:
    options = {} if kind is VanillaMTL else {"rotation_shape": SIZE, "burn_in_period": 1}
    model = kind(*networks(), **options)
    optimizer = torch.optim.SGD(model.parameters())
    data = batch()

    def step() -> None:
        train_step(model, TASKS, [data], [], check_finite=True)

    assert num_operations(step, optimizer) - bare_operations() <= most
