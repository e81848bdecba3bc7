"""Methods on the dense networks: first entries of the flattened features, or channels, rotated."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.bench.measure import peak_bytes
from rotograd_cli.methods import RotateOnly, RotoGrad, VanillaMTL
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.heads.folded_conv import FoldedConvLeaves
from rotograd_cli.methods.heads.leaves import PlainLeaves, writes_into_input
from rotograd_cli.models.backbones.segnet import SegNet, SegNetMTAN
from rotograd_cli.models.heads import ASPPHead, ConvHead, MTANHead, share_layers
from rotograd_cli.models.segnet_maps import PackedMaps
from tests.toy import METHODS

FILTERS = [8, 16]
SIZE = (8, 12)
CHANNELS = {"conv": 8, "aspp": 8, "mtan": PackedMaps(FILTERS).num_channels}
OUTPUTS = (3, 1)
SHAPES: dict[str, dict[str, Any]] = {
    "flat": {"rotation_shape": [1, 1, 100]},  # a channel and four entries
    "channels": {"rotation_shape": [8], "post_shape": SIZE},
    "some channels": {"rotation_shape": [5], "post_shape": SIZE},
}


def head_of(kind: str, num_outputs: int) -> nn.Module:
    shape = (CHANNELS[kind], *SIZE)
    build: dict[str, Callable[[], nn.Module]] = {
        "conv": lambda: ConvHead(feature_shape=shape, num_outputs=num_outputs),
        "aspp": lambda: ASPPHead(
            feature_shape=shape, num_outputs=num_outputs, atrous_rates=[1, 2], upsample=2
        ),
        "mtan": lambda: MTANHead(
            feature_shape=shape, num_outputs=num_outputs, filters=FILTERS, shared_blocks=True
        ),
    }
    return build[kind]()


def model_of(method: str, kind: str, mode: str) -> MultiTaskMethod:
    torch.manual_seed(0)
    network = SegNetMTAN if kind == "mtan" else SegNet
    backbone = network(input_shape=(3, *SIZE), filters=FILTERS)
    heads = [head_of(kind, num) for num in OUTPUTS]
    share_layers(heads)
    options = {} if method == "vanilla" else SHAPES[mode]
    if method == "rotogradnorm":
        options = {**options, "alpha": 1.0}
    make: Any = METHODS[method]
    model: MultiTaskMethod = make(backbone, heads, feature_shape=(CHANNELS[kind], *SIZE), **options)
    return model.double()


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, *SIZE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("mode", SHAPES)
@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_reaches_every_parameter_and_stays_finite(method: str, kind: str, mode: str) -> None:
    model = model_of(method, kind, mode).train()
    predictions = model(images())
    factor = 2 if kind == "aspp" else 1
    sizes = tuple(factor * size for size in SIZE)
    assert [p.shape for p in predictions] == [(3, num, *sizes) for num in OUTPUTS]
    if isinstance(model, RotateOnly):
        assert model._pass is not None
        folds = kind == "conv" and mode != "flat"
        assert isinstance(model._pass.leaves, FoldedConvLeaves if folds else PlainLeaves)
    model.backward([(prediction - 1).square().mean() for prediction in predictions])
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert not any(writes_into_input(head) for head in model.heads)
    if isinstance(model, RotateOnly):
        gradients = model.rotations.free_parameters.grad
        assert gradients is not None
        assert bool(gradients.flatten(1).any(1).all())  # every task's rotation moves


@pytest.mark.parametrize("mode", SHAPES)
@pytest.mark.parametrize("kind", CHANNELS)
def test_heads_see_their_rotated_features(kind: str, mode: str) -> None:
    model = model_of("rotograd", kind, mode).eval()
    assert isinstance(model, RotateOnly)
    z = model.backbone(images())
    m = model.rotation_size
    for head, R, prediction in zip(model.heads, model.rotation, model(images()), strict=True):
        if mode == "flat":
            flat = z.flatten(1)
            seen = torch.cat((flat[:, :m] @ R.T, flat[:, m:]), dim=1).view_as(z)
        else:
            rotated = torch.einsum("ij,njhw->nihw", R, z[:, :m])
            seen = torch.cat((rotated, z[:, m:]), dim=1)
        assert not torch.equal(seen, z)
        expected = head(seen)
        torch.testing.assert_close(prediction, expected)  # float64 rounding


@pytest.mark.parametrize("mode", SHAPES)
def test_rotations_of_mtan_leave_all_maps_but_the_last_alone(mode: str) -> None:
    model = model_of("rotograd", "mtan", mode).eval()
    z = model.backbone(images())
    assert model.rotated is not None
    for view in model.rotated.views(z, model.rotations.whole().R):
        assert torch.equal(view[:, FILTERS[0] :], z[:, FILTERS[0] :])


def test_rotograd_on_segnet_needs_little_more_memory_than_vanilla() -> None:
    """A backbone of two levels keeps less than the published one, so the ratio is larger."""
    size = (32, 48)
    x, peaks = torch.randn(2, 3, *size), []
    for method in (VanillaMTL, RotoGrad):
        torch.manual_seed(0)
        backbone = SegNet(input_shape=(3, *size), filters=[64, 64])
        heads = [ConvHead(feature_shape=(64, *size), num_outputs=n) for n in (13, 1, 3)]
        arguments = ([1, 1, 32],) if method is RotoGrad else ()
        model = method(backbone, heads, *arguments).train()

        def step(model: MultiTaskMethod = model) -> None:
            model.backward([prediction.square().mean() for prediction in model(x)])
            for parameter in model.parameters():
                parameter.grad = None

        step()
        peaks.append(peak_bytes(step, torch.device("cpu")))
    assert peaks[1] / peaks[0] <= 1.25
