"""A small regression with three tasks, and plain descent on it, for rules on networks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rule import Rule

K, N, D, LR = 3, 8, 5, 0.05
TaskLosses = list[Tensor | None]


def networks(num_tasks: int = K) -> tuple[nn.Module, list[nn.Module]]:
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Linear(4, D), nn.Tanh())
    return backbone, [nn.Linear(D, 1) for _ in range(num_tasks)]


def on_network(rule: Rule) -> Any:
    """The rule on the shared features of a network, in float64."""
    return MultiTaskMethod(*networks(), rule).double()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    scales = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    return x, torch.randn(N, K, generator=generator, dtype=torch.float64) * scales


def losses_of(predictions: Sequence[Tensor], y: Tensor, without: Sequence[int] = ()) -> TaskLosses:
    pairs = enumerate(zip(predictions, y.unbind(1), strict=False))
    return [None if k in without else (p[:, 0] - t).square().mean() for k, (p, t) in pairs]


def plain(model: MultiTaskMethod, x: Tensor, y: Tensor, without: Sequence[int] = ()) -> Any:
    """Features and losses by an ordinary forward pass."""
    z = model.backbone(x)
    return z, losses_of([head(z) for head in model.heads], y, without)


def descend(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    with torch.no_grad():
        for p, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                p -= LR * gradient


def sgd_step(model: MultiTaskMethod, x: Tensor, y: Tensor, without: Sequence[int] = ()) -> None:
    """One step of plain descent of everything, as the loop does it."""
    model.zero_grad()
    model.backward(losses_of(model(x), y, without))
    for group in (list(model.model_parameters()), list(model.mtl_parameters())):
        descend(group, [p.grad for p in group])


def naive_step(
    model: MultiTaskMethod, total: Callable[[list[Tensor]], Tensor], x: Tensor, y: Tensor
) -> None:
    """One step of plain descent of a function of the losses."""
    _, losses = plain(model, x, y)
    network = list(model.model_parameters())
    descend(network, torch.autograd.grad(total(losses), network))


def assert_same_network(
    model: MultiTaskMethod, expected: MultiTaskMethod, rtol: float = 1e-10, atol: float = 1e-12
) -> None:
    pairs = zip(model.model_parameters(), expected.model_parameters(), strict=True)
    for p, q in pairs:
        torch.testing.assert_close(p, q, rtol=rtol, atol=atol)


def start_value(seen: Sequence[float], burn_in_period: int) -> float:
    return seen[burn_in_period] if len(seen) > burn_in_period else seen[0]
