"""A task without a gradient, or with a loss that is zero or negative, never holds up the others."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.linalg.rotations import haar_rotations
from rotograd_cli.methods import RotoGrad
from rotograd_cli.methods.vanilla import VanillaMTL
from tests.contract.test_methods import (
    METHODS,
    build,
    every_method,
    make_optimizer,
    max_num_tasks,
    shared_gradient,
)
from tests.samplers import DIM, SIZE

NUM_STEPS = 80
JOINT = [method for method in METHODS if max_num_tasks(method) is None]
CASES: list[tuple[str, dict[str, Any]]] = [
    *((method, {}) for method in JOINT if method != "nashmtl"),
    ("gradnorm", {"alpha": 1.5}),
    ("rotogradnorm", {"alpha": 1.5}),
    ("rotograd", {"normalize_losses": True}),
    ("rotograd", {"rotation_path": "general"}),
    ("cagrad", {"c": 1.5}),
    ("alignedmtl", {"scale_mode": "rmse"}),
    ("fairgrad", {"alpha": 0}),
]
WITH_SLOW: list[Any] = [
    *CASES,
    pytest.param("nashmtl", {}, marks=pytest.mark.slow),
    ("nashmtl", {"update_every": 5}),
]
# by definition, steps are as short as the shortest gradient, FAMO's as the least loss, those of GLS
# as the mean; with FairGrad they are the longer the shorter a gradient is
EXTREME = ("mgda", "imtlg", "imtlg_rotations", "imtl", "famo", "gls", "fairgrad", "pivrg")


class Bias(nn.Module):
    """A head that does not look at the features."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        return self.value.expand(len(z), 1)


def squared_error(y: Tensor, t: Tensor) -> Tensor:
    return (y - t).square().mean()


# the second task's loss, by step; the first is a regression
OTHERS: dict[str, Callable[[Tensor, Tensor, int], Tensor | None]] = {
    "absent": lambda y, t, step: None,
    "zero": lambda y, t, step: (y * 0).sum(),
    "constant": lambda y, t, step: (y * 0).sum() + 3,
    "negative constant": lambda y, t, step: (y * 0).sum() - 3,
    "without features": lambda y, t, step: squared_error(y, t),
    "satisfied": lambda y, t, step: torch.relu(y - 100).mean(),
    "satisfied after a while": lambda y, t, step: torch.relu(1 - 2 * y * t.sign()).mean(),
    "negative": lambda y, t, step: squared_error(y, t) - 3,
    "turns negative": lambda y, t, step: squared_error(y, t) - 0.5,
    "vanishing": lambda y, t, step: 1e-30 * squared_error(y, t),
    "masked at first": lambda y, t, step: squared_error(y, t) * (step >= 15),
    "absent every other step": lambda y, t, step: squared_error(y, t) if step % 2 else None,
}


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(32, SIZE, generator=generator)
    return x, x @ torch.randn(SIZE, 2, generator=generator) / SIZE**0.5


def first_and_last(make: Callable[..., Any], kind: str) -> tuple[float, float]:
    """The regression's loss at the start and after training."""
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.Linear(SIZE, SIZE))
    other = Bias() if kind == "without features" else nn.Linear(SIZE, 1)
    model = make([nn.Linear(SIZE, 1), other], backbone).train()
    network = torch.optim.Adam(model.model_parameters(), lr=0.02)
    method = make_optimizer(model, lr=0.01)
    x, t = data()
    seen = []

    def losses(step: int) -> list[Tensor | None]:
        y = model(x)
        return [squared_error(y[0], t[:, :1]), OTHERS[kind](y[1], t[:, 1:], step)]

    for step in range(NUM_STEPS):
        now = losses(step)
        before = model.backward(now)
        seen.append(float(before[0]))
        network.step()
        network.zero_grad()
        if model.needs_losses_after_update:
            after = [torch.zeros(()) if loss is None else loss.detach() for loss in losses(step)]
            model.forget()
            present = torch.tensor([loss is not None for loss in now])
            model.observe_update(before, torch.stack(after), present)
        if method is not None:
            method.step()
            method.zero_grad()
        if step % 10 == 9:
            model.end_epoch()
    assert all(p.isfinite().all() for p in model.parameters())
    return seen[0], seen[-1]


@cache
def alone() -> float:
    """The last loss of the regression on its own."""
    return first_and_last(lambda heads, backbone: VanillaMTL(backbone, heads), "absent")[1]


ALL = [*CASES, ("nashmtl", {}), ("nashmtl", {"update_every": 5})]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "options"), ALL, ids=str)
def test_a_task_learns_beside_one_that_has_nothing_to_learn(
    method: str, options: dict[str, Any]
) -> None:
    for kind in OTHERS:
        if kind == "vanishing" and method in EXTREME:
            continue
        first, last = first_and_last(
            lambda heads, backbone: build(method, heads, backbone, **options), kind
        )
        assert last < 2 * alone() + 0.02 * first, kind


@pytest.mark.parametrize(("method", "options"), WITH_SLOW, ids=str)
def test_a_task_without_a_gradient_counts_as_absent(method: str, options: dict[str, Any]) -> None:
    """Not only in the end: a step that is too short would pass with an optimiser like Adam."""
    if method == "rlw":
        pytest.skip("its weights know no losses")
    found = []
    for loss in (lambda y: y.sum() * 0, lambda y: None):
        torch.manual_seed(1)
        heads = [nn.Linear(SIZE, 1) for _ in range(3)]
        model = build(method, heads, nn.Linear(SIZE, SIZE), **options)
        own = make_optimizer(model, lr=0.3)
        for step in range(3):
            model.zero_grad()
            y = model(data()[0])
            torch.manual_seed(step)
            model.backward([y[0].square().mean(), loss(y[1]), (y[2] - 3).square().mean()])
            if own is not None:
                own.step()
        found.append([*model.backbone.parameters(), *model.mtl_parameters()])
    for p, q in zip(*found, strict=True):
        torch.testing.assert_close(p, q)
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


# ---- any scale, and directions that coincide


def gradient_sets() -> dict[str, Tensor]:
    """Task gradients ``[K, D]`` in float32 that a solver may stumble over."""
    a, b = torch.randn(2, DIM, generator=torch.Generator().manual_seed(5))
    return {
        "two": torch.stack((a, b)),
        "identical": torch.stack((a, a, a)),
        "opposite": torch.stack((a, -a)),
        "nearly opposite": torch.stack((a, -a + 1e-6 * b)),
        "duplicates": torch.stack((a, b, b, a)),
        "zero beside them": torch.stack((a, 0 * a, b)),
        "one": a.unsqueeze(0),
    }


def combined(method: str, G: Tensor) -> Tensor:
    """The backbone's gradient from a new model."""
    model = build(method, [nn.Identity() for _ in G])
    if hasattr(model, "rotation"):
        model.rotation = haar_rotations(len(G), SIZE, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    result = shared_gradient(model, G.view(len(G), -1, SIZE))
    assert not model.num_nonfinite.any()
    return result


@every_method
def test_float32_gradients_of_any_size_are_combined_alike(method: str) -> None:
    for name, G in gradient_sets().items():
        G = G[: max_num_tasks(method)]
        expected = combined(method, G)
        assert expected.isfinite().all(), name
        for scale in (2.0**-100, 2.0**83):  # powers of two, so that nothing but the range changes
            found = combined(method, G * scale) / scale
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("path", ["general", "folded"])
@pytest.mark.parametrize("loss_scale", [None, 1.0])
def test_float32_losses_of_any_size_train_backbone_and_heads_alike(
    path: str, loss_scale: float | None
) -> None:
    found = []
    for scale in (1.0, 2.0**-100, 2.0**83):
        torch.manual_seed(0)
        heads = [nn.Linear(SIZE, 2) for _ in range(3)]
        model = RotoGrad(nn.Linear(SIZE, SIZE), heads, SIZE, rotation_path=path)
        losses = [scale * (p - k).square().mean() for k, p in enumerate(model(data()[0]))]
        model.backward(losses, loss_scale=loss_scale)
        assert not model.num_nonfinite.any()
        found.append([p.grad / scale for p in model.model_parameters()])
    for other in found[1:]:
        for p, q in zip(found[0], other, strict=True):
            torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-6)
