"""Losses that are missing, zero, negative or infinite: defects 4, 5, 15 and 16."""

import copy
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli import methods
from rotograd_cli.errors import BackwardError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from tests.equivalence.defects.models import (
    BATCH,
    BURN_IN,
    NUM_TASKS,
    SIZE,
    Scale,
    backbone_gradient,
    batch,
    build,
    every_method,
    every_rotating_method,
    make_optimizers,
    pass_once,
    reference,
    task_losses,
)

# ---- 4: tasks without a loss


def normalized(method: str) -> dict[str, bool]:
    """Options with which the start values of the losses count."""
    return {} if method == "VanillaMTL" else {"normalize_losses": True}


def without_task(model: MultiTaskMethod, method: str, absent: int) -> MultiTaskMethod:
    """The model of the other tasks, in the same state."""
    kept = [k for k in range(NUM_TASKS) if k != absent]
    heads = [copy.deepcopy(model.heads[k]) for k in kept]
    backbone = copy.deepcopy(model.backbone)
    smaller = build(methods, method, backbone=backbone, heads=heads, **normalized(method)).double()
    if method != "VanillaMTL":
        smaller.rotation = model.rotation.detach()[kept]
    return smaller


@every_method
@pytest.mark.parametrize("first_step", [True, False])
def test_a_missing_loss_leaves_the_update_of_the_other_tasks(method: str, first_step: bool) -> None:
    model = build(methods, method, **normalized(method)).double()
    smaller = without_task(model, method, absent=1)
    x = batch()
    if not first_step:  # task 1 has a gradient that must not be used again
        losses = task_losses(model(x), x)
        model.backward(losses)
        model.zero_grad()
        losses = task_losses(smaller(x), x)
        smaller.backward([losses[0], 1.5 * losses[1]])
        smaller.zero_grad()
    pass_once(model, x, absent=[1])
    losses = task_losses(smaller(x), x)
    smaller.backward([losses[0], 1.5 * losses[1]])  # 3/2: the third task's factor, not the second's
    torch.testing.assert_close(backbone_gradient(model), backbone_gradient(smaller))
    assert all(p.grad is None or not p.grad.any() for p in model.heads[1].parameters())
    for k, mine in ((0, 0), (2, 1)):
        torch.testing.assert_close(model.heads[k].weight.grad, smaller.heads[mine].weight.grad)
    if method != "VanillaMTL":
        grad = model.rotations.free_parameters.grad
        torch.testing.assert_close(grad[[0, 2]], smaller.rotations.free_parameters.grad)
        assert not grad[1].any()
        assert model.initial_losses.num_steps.tolist() == [
            2 - first_step,
            1 - first_step,
            2 - first_step,
        ]


def test_the_reference_uses_the_last_gradient_of_a_missing_task_again() -> None:
    model = build(reference, "VanillaMTL")
    x = batch().float()
    pass_once(model, x)
    for p in model.model_parameters():
        p.grad = None
    model.backward(task_losses(model(x), x)[:1])
    found = backbone_gradient(model).clone()
    plain = torch.autograd.grad(
        task_losses([model.heads[0](model.backbone(x))], x)[0], list(model.backbone.parameters())
    )
    wanted = torch.cat([g.flatten() for g in plain])
    assert not torch.allclose(found, wanted, rtol=0.1)
    with pytest.raises(AttributeError):
        pass_once(build(reference), x, absent=[1])


@every_method
def test_a_step_without_any_loss_is_an_error(method: str) -> None:
    model = build(methods, method).double()
    model(batch())
    with pytest.raises(BackwardError, match="at least one loss, got None for every task"):
        model.backward([None] * NUM_TASKS)


# ---- 5: zero losses and losses of mixed sign


def stays_finite(
    package: ModuleType, method: str, offsets: Sequence[float], **options: Any
) -> None:
    """Losses start at the given values; their gradients are as ever."""
    model = build(package, method, **options)
    optimizers = make_optimizers(model)
    for seed in range(BURN_IN + 2):
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses = task_losses(model(batch(seed).float()), batch(seed))
        pairs = list(zip(losses, offsets, strict=True))
        shifted = [
            x - x.detach() + offset if seed == 0 else x * 0.5 + offset for x, offset in pairs
        ]
        model.backward(shifted)
        for optimizer in optimizers:
            optimizer.step()
    for p in (*model.model_parameters(), *model.mtl_parameters()):
        assert p.isfinite().all()
        assert p.grad.isfinite().all()


@every_rotating_method
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("offsets", [(0.0, 1.0, 2.0), (-2.0, 1.0, -0.7), (0.0, 0.0, 0.0)])
def test_zero_losses_and_mixed_signs_stay_finite(
    method: str, normalize: bool, offsets: tuple[float, ...]
) -> None:
    stays_finite(methods, method, offsets, normalize_losses=normalize)


@pytest.mark.parametrize("offsets", [(0.0, 1.0, 2.0), (-2.0, 1.0, -0.7)])
def test_the_reference_fails_at_zero_losses_and_mixed_signs(offsets: tuple[float, ...]) -> None:
    with pytest.raises((AssertionError, TypeError)):
        stays_finite(reference, "RotoGradNorm", offsets, normalize_losses=True)


# ---- 15: normalised losses, infinite losses


@every_rotating_method
def test_normalize_losses_makes_the_backbones_gradient_independent_of_units(method: str) -> None:
    """A task in millimetres or metres: only then is L_k/L_k^0 what reaches the backbone."""

    def gradient(factors: Sequence[float], normalize: bool) -> Tensor:
        model = build(methods, method, normalize_losses=normalize).double()
        for seed in range(2):
            model.zero_grad()
            losses = task_losses(model(batch(seed)), batch(seed))
            model.backward([factor * loss for factor, loss in zip(factors, losses, strict=True)])
        return backbone_gradient(model)

    units = (1000.0, 1.0, 0.01)
    torch.testing.assert_close(gradient(units, True), gradient((1.0, 1.0, 1.0), True))
    assert not torch.allclose(gradient(units, False), gradient((1.0, 1.0, 1.0), False), rtol=0.1)


def survives_an_infinite_loss(
    package: ModuleType, method: str, spoil: Callable[[Tensor], Tensor], num_steps: int
) -> None:
    found = []
    for spoilt in (True, False):
        model = build(package, method)
        for _ in range(num_steps):
            pass_once(model, batch().float())
        for p in (*model.model_parameters(), *model.mtl_parameters()):
            p.grad = None
        losses = task_losses(model(batch().float()), batch())
        losses[1] = spoil(losses[1]) if spoilt else None
        model.backward(losses)
        parameters = [p for j in (0, 2) for p in model.heads[j].parameters()]
        parameters += [*model.backbone.parameters(), *model.mtl_parameters()]
        found.append([p.grad for p in parameters])
    for p, q in zip(*found, strict=True):
        assert p.isfinite().all()
        assert torch.equal(p, q)


SPOIL = {"gradient": lambda loss: loss * math.inf, "value": lambda loss: loss + math.inf}


@every_rotating_method
@pytest.mark.parametrize("kind", SPOIL)
@pytest.mark.parametrize("num_steps", [0, 2])
def test_an_infinite_loss_counts_as_a_missing_one(method: str, kind: str, num_steps: int) -> None:
    survives_an_infinite_loss(methods, method, SPOIL[kind], num_steps)


def test_an_infinite_loss_poisons_the_reference() -> None:
    model = build(reference, "RotateOnly")
    losses = task_losses(model(batch().float()), batch())
    model.backward([losses[0], losses[1] * math.inf, losses[2]])
    assert not any(p.grad.isfinite().all() for p in model.mtl_parameters())
    assert not backbone_gradient(model).isfinite().all()


def test_nonfinite_gradients_are_counted_by_task() -> None:
    model = build(methods)
    losses = task_losses(model(batch().float()), batch())
    model.backward([losses[0], losses[1] * math.nan, None])
    assert model.num_nonfinite.tolist() == [0, 1, 0]


# ---- 16: a zero gradient at the first step


def recovers_from_a_zero_gradient(package: ModuleType) -> None:
    scale = Scale(0.0)
    heads = [nn.Identity(), nn.Sequential(scale), nn.Identity()]
    model = build(package, heads=heads)
    norms = torch.tensor([1.0, 50.0, 2.0])
    for factor in (0.0, 1.0, 1.0):
        scale.factor = factor
        z = model(batch().float())
        model.rep.retain_grad()
        directions = [torch.ones(BATCH, SIZE) / (BATCH * SIZE) ** 0.5 for _ in z]
        model.backward(
            [n * (p * d).sum() + 1 for n, p, d in zip(norms, z, directions, strict=True)]
        )
    units = sum(d @ R.detach() for d, R in zip(directions, model.rotation, strict=True))
    length = model.rep.grad.norm() / units.norm()
    # every task is at its start norm, so all weigh the same; the reference's length is task 1's, 50
    torch.testing.assert_close(length, norms.mean())


def test_a_zero_gradient_at_the_first_step_is_no_start_value() -> None:
    recovers_from_a_zero_gradient(methods)
    with pytest.raises(AssertionError):
        recovers_from_a_zero_gradient(reference)
