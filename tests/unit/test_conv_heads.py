"""Rotations folded into convolutions: which heads qualify, and the numbers of the general path."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.rotation import features as rotated_features
from tests.unit.test_linear_heads import (
    METHODS,
    assert_same_gradients,
    assert_same_parameters,
    evaluated,
    inputs,
    linear,
    losses_of,
    model,
    pair,
    pass_once,
    train,
)

CHANNELS = 4
SHAPES = {1: (CHANNELS, 5), 2: (CHANNELS, 3, 5), 3: (CHANNELS, 2, 3, 2)}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(1)


def options_of(num_axes: int = 2, rotated: int = 3) -> dict[str, Any]:
    shape = SHAPES[num_axes]
    return {"shape": shape, "rotated": rotated, "post_shape": shape[1:]}


def usual_heads() -> list[nn.Module]:
    return [
        nn.Conv2d(CHANNELS, 1, 1, bias=False),
        nn.Conv2d(CHANNELS, 2, 3, padding=1, padding_mode="circular"),
        nn.Sequential(nn.Conv2d(CHANNELS, 3, (2, 3), stride=2), nn.Tanh(), nn.Conv2d(3, 1, 1)),
    ]


FIT: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "one axis": (1, lambda: nn.Conv1d(CHANNELS, 2, 3)),
    "three axes": (3, lambda: nn.Conv3d(CHANNELS, 2, 2)),
    "pointwise": (2, lambda: nn.Conv2d(CHANNELS, 2, 1)),
    "padded": (2, lambda: nn.Conv2d(CHANNELS, 2, 3, padding="same")),
    "padded by reflection": (
        2,
        lambda: nn.Conv2d(CHANNELS, 2, 3, padding=1, padding_mode="reflect"),
    ),
    "strided": (2, lambda: nn.Conv2d(CHANNELS, 2, 2, stride=(1, 2))),
    "dilated": (2, lambda: nn.Conv2d(CHANNELS, 2, 2, dilation=2)),
    "in place after it": (
        2,
        lambda: nn.Sequential(nn.Conv2d(CHANNELS, 2, 3), nn.ReLU(inplace=True), nn.Flatten()),
    ),
}


@pytest.mark.parametrize("rotated", [3, CHANNELS])
@pytest.mark.parametrize("case", FIT)
def test_convolutions_over_the_rotated_channels_fold_to_the_same_gradients(
    case: str, rotated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_axes, build = FIT[case]
    folded, general = pair([build(), build()], **options_of(num_axes, rotated))
    pass_once(general)
    monkeypatch.setattr(rotated_features, "rotate", None)  # of the general path
    pass_once(folded)
    assert_same_gradients(folded, general)


def hooked() -> nn.Module:
    layer = nn.Conv2d(CHANNELS, 2, 1)
    layer.register_forward_hook(lambda *args: None)
    return layer


class OwnConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sin()


UNFIT: dict[str, Callable[[], nn.Module]] = {
    "hook": hooked,
    "subclass": lambda: OwnConv(CHANNELS, 2, 1),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(CHANNELS, 2, 1)),
    "groups": lambda: nn.Conv2d(CHANNELS, 4, 1, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(CHANNELS, 2, 1),
    "activation first": lambda: nn.Sequential(nn.Tanh(), nn.Conv2d(CHANNELS, 2, 1)),
    "linear": lambda: nn.Sequential(nn.Flatten(), linear(2, 60)),
    "linear along the last axis": lambda: linear(2, 5),
}


@pytest.mark.parametrize("case", UNFIT)
def test_other_heads_do_not_fold_and_auto_takes_the_general_path(case: str) -> None:
    heads = [nn.Conv2d(CHANNELS, 2, 1), UNFIT[case]()]
    folded, general = pair(heads, **options_of())
    with pytest.raises(ConfigError, match=r"needs heads that begin with nn.Linear or nn.Conv"):
        folded(inputs())
    folded.rotated.path = "auto"
    for m in (folded, general):
        pass_once(m)
    assert_same_gradients(folded, general)


@pytest.mark.parametrize("rotation_map", ["expm", "cayley"])
@pytest.mark.parametrize("method", METHODS)
def test_training_and_evaluation_agree_with_the_general_path(
    method: str, rotation_map: str
) -> None:
    both = pair(usual_heads(), method=method, rotation_map=rotation_map, **options_of())
    for m in both:
        train(m, 10)
    assert_same_parameters(*both)
    x = inputs(9)
    for p, q, r in zip(*(evaluated(m) for m in both), both[0](x), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
        torch.testing.assert_close(r, p, rtol=0, atol=1e-12)
    for k, network in enumerate(both[0]):
        torch.testing.assert_close(network(x), both[0](x)[k], rtol=0, atol=1e-12)


def test_micro_batches_scales_absent_tasks_and_frozen_layers_are_as_on_the_general_path() -> None:
    both = pair(usual_heads(), **options_of())
    for m in both:
        m.heads[0].requires_grad_(False)
        for i in range(2):
            losses: list[Tensor | None] = [512 * loss for loss in losses_of(m(inputs(i)))]
            losses[1] = None
            m.backward(losses, loss_scale=1024.0, num_micro_batches=2, accumulating=i == 0)
        assert all(p.grad is None for k in (0, 1) for p in m.heads[k].parameters())
    assert_same_gradients(*both)


class ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


def test_channels_may_come_last_in_memory() -> None:
    """Without autograd's warning of gradients that are laid out in another way."""
    both = pair(usual_heads(), **options_of())
    for m in both:
        m.backbone.append(ChannelsLast())
        pass_once(m)
    assert_same_gradients(*both)


def test_a_hook_that_comes_later_and_a_head_that_is_replaced_are_seen() -> None:
    auto = model(usual_heads(), "auto", **options_of())
    general = copy.deepcopy(auto)
    general.rotated.path = "general"
    new = nn.Conv2d(CHANNELS, 2, 1).double()
    for m in (auto, general):
        train(m, 1)
        m.heads[0].register_forward_hook(lambda module, args, y: 2 * y)
        train(m, 1)
        m.heads[1] = copy.deepcopy(new)
        train(m, 1)
    assert_same_parameters(auto, general)
