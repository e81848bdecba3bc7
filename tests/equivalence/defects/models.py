"""Models of both packages, and steps with them, for the tests of one defect each."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.oracle import load_reference

reference = load_reference()
METHODS = ("VanillaMTL", "RotateOnly", "RotoGrad", "RotoGradNorm")
ROTATING = METHODS[1:]
NUM_INPUTS, SIZE, NUM_TASKS, BATCH, BURN_IN = 5, 4, 3, 6, 3
every_method = pytest.mark.parametrize("method", METHODS)
every_rotating_method = pytest.mark.parametrize("method", ROTATING)


class WithExtra(nn.Module):
    """Features, and a second output that still depends on the parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.module(x)
        return z, z.square().mean()


class Scale(nn.Module):
    """Multiplies by a constant; 0 makes a head that ignores its input for now."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z


def make_backbone() -> nn.Module:
    return nn.Sequential(nn.Linear(NUM_INPUTS, 8), nn.Tanh(), nn.Linear(8, SIZE))


def make_heads() -> list[nn.Module]:
    return [nn.Linear(SIZE, 2) for _ in range(NUM_TASKS)]


def build(
    package: ModuleType,
    method: str = "RotoGrad",
    *,
    backbone: nn.Module | None = None,
    heads: Sequence[nn.Module] | None = None,
    **options: Any,
) -> Any:
    """A model with parameters that depend on nothing but the arguments."""
    torch.manual_seed(0)
    backbone = make_backbone() if backbone is None else backbone
    heads = make_heads() if heads is None else heads
    if method != "VanillaMTL":
        options = {"rotation_shape": SIZE, "burn_in_period": BURN_IN, **options}
    if method == "RotoGradNorm":
        options.setdefault("alpha", 0.7)
    return getattr(package, method)(backbone, heads, **options)


def batch(seed: int = 0, num: int = BATCH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, NUM_INPUTS, generator=generator, dtype=torch.float64)


def task_losses(predictions: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    target = x[:, :1].sin().to(predictions[0].dtype)
    return [(k + 1) * (p - target).square().mean() for k, p in enumerate(predictions)]


def pass_once(model: Any, x: Tensor, absent: Sequence[int] = (), **options: Any) -> list[Tensor]:
    """Forward and backward; returns the losses."""
    losses = task_losses(model(x), x)
    model.backward([None if k in absent else loss for k, loss in enumerate(losses)], **options)
    return losses


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def backbone_gradient(model: Any) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.backbone.parameters()])


def make_optimizers(model: Any) -> list[torch.optim.Optimizer]:
    groups = (list(model.model_parameters()), list(model.mtl_parameters()))
    return [torch.optim.Adam(group, lr=0.02) for group in groups if group]


def step(
    model: Any, optimizers: list[torch.optim.Optimizer], x: Tensor, **options: Any
) -> list[Tensor]:
    for optimizer in optimizers:
        optimizer.zero_grad()
    losses = pass_once(model, x, **options)
    for optimizer in optimizers:
        optimizer.step()
    return losses


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], factor: float = 1.0) -> None:
    """Equal up to the rounding of float64 sums taken in another order."""
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, factor * wanted[name], rtol=1e-10, atol=1e-13 * factor, msg=name
        )
