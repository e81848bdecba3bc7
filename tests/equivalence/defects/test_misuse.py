"""Wrong shapes, unusual passes and extra outputs: defects 12 to 14."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli import methods
from rotograd_cli.errors import BackwardError, ShapeError
from rotograd_cli.methods.engine.passes import ExtraOutputs
from tests.equivalence.defects.models import (
    NUM_INPUTS,
    NUM_TASKS,
    WithExtra,
    assert_same,
    batch,
    build,
    every_method,
    gradients,
    make_backbone,
    make_heads,
    pass_once,
    reference,
    task_losses,
)
from tests.networks import Reshape

# ---- 12: shapes


WRONG_SHAPES: dict[str, tuple[tuple[int, ...], dict[str, Any], str]] = {
    "rotation too large": ((4,), {"rotation_shape": 5}, r"needs 5 features, got \(4,\)"),
    "post_shape of another size": (
        (4, 2, 3),
        {"rotation_shape": 4, "post_shape": (3, 2)},
        r"post_shape \(3, 2\), got \[4, 2, 3\]; set both",
    ),
    "no post_shape axes": (
        (4,),
        {"rotation_shape": 4, "post_shape": (4, 2)},
        r"post_shape \(4, 2\), got \[4\]; set both",
    ),
    "rotation over missing axes": (
        (6,),
        {"rotation_shape": (2, 3), "post_shape": (1,)},
        r"rotation_shape \(2, 3\) and post_shape \(1,\), got \[6\]; set both",
    ),
}


@pytest.mark.parametrize("case", WRONG_SHAPES)
def test_wrong_shapes_are_refused_at_construction_and_in_forward(case: str) -> None:
    shape, options, message = WRONG_SHAPES[case]
    backbone = nn.Sequential(nn.Linear(NUM_INPUTS, math.prod(shape)), Reshape(*shape))
    with pytest.raises(ShapeError, match=message):
        build(methods, backbone=backbone, feature_shape=shape, **options)
    model = build(methods, backbone=backbone, **options)
    if "axes" in case:
        model.backbone.append(nn.Flatten(0))  # or the batch would stand in for a missing axis
    with pytest.raises(ShapeError, match=r"needs 5 features|must have shape"):
        model(batch().float())


def test_the_reference_does_not_look_at_post_shape() -> None:
    backbone = nn.Sequential(nn.Linear(NUM_INPUTS, 24), Reshape(4, 2, 3))
    heads = [nn.Flatten() for _ in range(NUM_TASKS)]
    model = build(reference, backbone=backbone, heads=heads, rotation_shape=2, post_shape=(3,))
    wrong = build(reference, backbone=backbone, heads=heads[:], rotation_shape=2, post_shape=(7,))
    assert model(batch().float())[0].shape == wrong(batch().float())[0].shape


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda losses: losses[:2], ShapeError, r"one entry per task \(3\), got 2; pass None"),
        (
            lambda losses: [losses[0], losses[1].repeat(2), losses[2]],
            ShapeError,
            r"`losses\[1\]` must be a scalar, got shape \[2\]; reduce it",
        ),
        (
            lambda losses: [losses[0], losses[1].detach(), losses[2]],
            BackwardError,
            r"`losses\[1\]` does not depend on any trainable tensor",
        ),
    ],
)
@every_method
def test_wrong_losses_are_refused(
    method: str,
    change: Callable[[list[Tensor]], list[Tensor]],
    error: type[Exception],
    message: str,
) -> None:
    model, x = build(methods, method).double(), batch()
    losses = task_losses(model(x), x)
    with pytest.raises(error, match=message):
        model.backward(change(losses))


# ---- 13: what the reference answers with an autograd error


@every_method
def test_backward_without_a_differentiable_forward_says_so(method: str) -> None:
    model, x = build(methods, method), batch().float()
    with pytest.raises(BackwardError, match="needs a forward pass in training mode"):
        model.backward([torch.zeros(())] * NUM_TASKS)
    with torch.no_grad():
        losses = task_losses(model(x), x)
    with pytest.raises(BackwardError, match=r"outside torch\.no_grad"):
        model.backward(losses)
    pass_once(model, x)
    with pytest.raises(BackwardError):
        model.backward([torch.zeros(())] * NUM_TASKS)  # the graph of the last forward is spent


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_forward_without_gradients_works_in_training_mode(mode: Callable[[], Any]) -> None:
    model, x = build(methods), batch().float()
    with mode():
        found = model(x)
    assert all(torch.equal(p, q) for p, q in zip(found, model(x), strict=True))
    with pytest.raises(RuntimeError), mode():
        build(reference)(x)


def trains_on_a_frozen_backbone(package: ModuleType, method: str) -> None:
    model = build(package, method)
    model.backbone.requires_grad_(False)
    pass_once(model, batch().float())
    for p in (*model.model_parameters(), *model.mtl_parameters()):
        assert p.grad is not None if p.requires_grad else p.grad is None


@every_method
def test_a_frozen_backbone_leaves_heads_and_rotations_to_train(method: str) -> None:
    trains_on_a_frozen_backbone(methods, method)
    with pytest.raises(RuntimeError):
        trains_on_a_frozen_backbone(reference, method)


def uses_the_backbones_extra_output(package: ModuleType, method: str) -> None:
    x = batch().float()
    model = build(package, method, backbone=WithExtra(make_backbone()))
    predictions, extras = model(x)
    regulariser = extras.backbone[0] if package is methods else extras[0]
    losses = task_losses(predictions, x)
    losses[1] = losses[1] + 0.3 * regulariser
    found = list(model.model_parameters())
    model.backward(losses)
    # rotations are constants of the joint loss: an evaluation pass differentiates straight through
    predictions, extras = model.eval()(x)
    total = sum(task_losses(predictions, x)) + 0.3 * extras.backbone[0]
    wanted = torch.autograd.grad(total, found)
    for p, gradient in zip(found, wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["VanillaMTL", "RotateOnly"])
def test_task_losses_may_use_the_backbones_extra_outputs(method: str) -> None:
    uses_the_backbones_extra_output(methods, method)
    with pytest.raises(RuntimeError):
        uses_the_backbones_extra_output(reference, method)


@every_method
def test_heads_may_modify_their_input_in_place(method: str) -> None:
    def in_place_heads(inplace: bool) -> list[nn.Module]:
        return [nn.Sequential(nn.ReLU(inplace=inplace), head) for head in make_heads()]

    found, wanted = (
        build(
            methods,
            method,
            backbone=nn.Sequential(make_backbone(), nn.Tanh()),
            heads=in_place_heads(inplace),
        ).double()
        for inplace in (True, False)
    )
    wanted.load_state_dict(found.state_dict())
    for model in (found, wanted):
        pass_once(model, batch())
    assert_same(gradients(found), gradients(wanted))
    wanted.eval()
    found.eval()
    x = batch()
    for k in range(NUM_TASKS):
        torch.testing.assert_close(found[k](x), wanted(x)[k])
        found[k](x).sum().backward()  # Tanh needs its output, which the head must leave alone


# ---- 14: extra outputs


def test_extra_outputs_have_one_structure() -> None:
    heads = make_heads()
    heads[1] = WithExtra(heads[1])
    x = batch().float()
    predictions, extras = build(methods, heads=heads)(x)
    assert isinstance(extras, ExtraOutputs)
    assert len(predictions) == NUM_TASKS
    assert extras.backbone == ()
    assert [len(extra) for extra in extras.heads] == [0, 1, 0]
    both = build(methods, heads=heads, backbone=WithExtra(make_backbone()))
    _, extras = both(x)
    assert len(extras.backbone) == 1
    assert [len(extra) for extra in extras.heads] == [0, 1, 0]
    # the authors' list: a tuple for task 1 alone, then with the backbone's tensor put before it
    _, flat = build(reference, heads=list(heads))(x)
    assert [type(extra) for extra in flat] == [tuple]
    _, flat = build(reference, heads=list(heads), backbone=WithExtra(make_backbone()))(x)
    assert [type(extra) for extra in flat] == [Tensor, tuple]
