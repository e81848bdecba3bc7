"""A task without a gradient, or with a loss that is zero or negative, never holds up the others."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.methods.vanilla import VanillaMTL
from tests.contract.test_methods import METHODS, build, class_of, make_optimizer
from tests.samplers import SIZE

NUM_STEPS = 150
JOINT = [method for method in METHODS if class_of(method).max_num_tasks is None]
Loss = Callable[[Tensor, Tensor], Tensor | None]


class Bias(nn.Module):
    """A head that does not look at the features."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        return self.value.expand(len(z), 1)


def squared_error(y: Tensor, t: Tensor) -> Tensor:
    return (y - t).square().mean()


# the second task's loss; the first is a regression
OTHERS: dict[str, Loss] = {
    "absent": lambda y, t: None,
    "zero": lambda y, t: (y * 0).sum(),
    "constant": lambda y, t: (y * 0).sum() + 3,
    "negative constant": lambda y, t: (y * 0).sum() - 3,
    "without features": squared_error,
    "satisfied": lambda y, t: torch.relu(y - 100).mean(),
    "satisfied after a while": lambda y, t: torch.relu(1 - y * t.sign()).mean(),
    "negative": lambda y, t: squared_error(y, t) - 3,
    "turns negative": lambda y, t: squared_error(y, t) - 0.5,
    "vanishing": lambda y, t: 1e-30 * squared_error(y, t),
    "masked at first": lambda y, t: squared_error(y, t),
}


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(32, SIZE, generator=generator)
    return x, x @ torch.randn(SIZE, 2, generator=generator) / SIZE**0.5


def last_loss(make: Callable[[list[nn.Module], nn.Module], Any], kind: str) -> tuple[float, float]:
    """The regression's loss at the start and after training."""
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.Linear(SIZE, SIZE))
    other = Bias() if kind == "without features" else nn.Linear(SIZE, 1)
    model = make([nn.Linear(SIZE, 1), other], backbone).train()
    network = torch.optim.Adam(model.model_parameters(), lr=0.01)
    method = make_optimizer(model, lr=0.01)
    x, t = data()
    present = torch.tensor([True, kind != "absent"])
    seen = []

    def losses(step: int) -> list[Tensor | None]:
        y = model(x)
        if kind == "masked at first" and step < 20:
            return [squared_error(y[0], t[:, :1]), (y[1] * 0).sum()]
        return [squared_error(y[0], t[:, :1]), OTHERS[kind](y[1], t[:, 1:])]

    for step in range(NUM_STEPS):
        before = model.backward(losses(step))
        seen.append(float(before[0]))
        network.step()
        network.zero_grad()
        if model.needs_losses_after_update:
            after = losses(step)
            model.forget()
            values = [torch.zeros(()) if loss is None else loss.detach() for loss in after]
            model.observe_update(before, torch.stack(values), present)
        if method is not None:
            method.step()
            method.zero_grad()
        if step % 25 == 24:
            model.end_epoch()
    return seen[0], seen[-1]


@cache
def alone() -> float:
    return last_loss(lambda heads, backbone: VanillaMTL(backbone, heads), "absent")[1]


@pytest.mark.parametrize("method", JOINT)
@pytest.mark.parametrize("kind", OTHERS)
def test_the_other_task_learns_as_fast_as_alone(method: str, kind: str) -> None:
    first, last = last_loss(lambda heads, backbone: build(method, heads, backbone), kind)
    assert last < 2 * alone() + 0.02 * first
