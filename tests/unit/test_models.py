"""Backbones and heads: sizes by the formulas of the papers, errors of wrong ones."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision

from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.models.backbones.celeba_conv import CelebAConv
from rotograd_cli.models.backbones.conv import ConvNet
from rotograd_cli.models.backbones.lenet import LeNet
from rotograd_cli.models.backbones.mlp import MLP
from rotograd_cli.models.backbones.resnet import ResNet18
from rotograd_cli.models.backbones.resnet_cifar import ResNetCIFAR
from rotograd_cli.models.heads import ConvHead, MLPHead


def num_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_lenet_has_the_sizes_of_multimnist() -> None:
    lenet = LeNet(input_shape=(1, 28, 28), num_features=50)
    # conv 1 -> 10 and 10 -> 20 of 5x5, then 320 -> 50 (Sener and Koltun)
    assert num_parameters(lenet) == 10 * 26 + 20 * 251 + 50 * 321
    assert lenet(torch.zeros(3, 1, 28, 28)).shape == (3, 50)


def test_lenet_computes_the_same_function_in_either_memory_layout() -> None:
    plain = LeNet(input_shape=(1, 28, 28), num_features=50).double()
    other = LeNet(input_shape=(1, 28, 28), num_features=50, channels_last=True).double()
    other.load_state_dict(plain.state_dict())
    assert other.convolutions[0](torch.zeros(2, 1, 28, 28).double()).is_contiguous(
        memory_format=torch.channels_last
    )
    x = torch.randn(4, 1, 28, 28).double()
    weights = torch.randn(4, 50).double()
    for network in (plain, other):
        (network(x) * weights).sum().backward()
    torch.testing.assert_close(other(x), plain(x))
    for p, q in zip(other.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_lenet_takes_the_smallest_image_it_promises() -> None:
    lenet = LeNet(input_shape=(3, 16, 16), num_features=2)
    assert lenet(torch.zeros(1, 3, 16, 16)).shape == (1, 2)


def test_lenet_refuses_what_is_no_image_or_too_small() -> None:
    for shape in [(1, 15, 28), (28, 28), (64,)]:
        with pytest.raises(ConfigError, match=r"at least 16x16 pixels.*use backbone=mlp"):
            LeNet(input_shape=shape, num_features=50)


def test_mlp_flattens_its_input_and_returns_features_that_are_not_negative() -> None:
    torch.manual_seed(0)
    mlp = MLP(input_shape=(2, 3), hidden=[7], num_features=4)
    assert num_parameters(mlp) == 7 * 7 + 4 * 8
    x = torch.randn(5, 2, 3)
    features = mlp(x)
    assert features.shape == (5, 4)
    assert (features >= 0).all()
    assert torch.equal(features, mlp(x.view(5, 6)))


def test_resnet18_is_torchvisions_behind_a_stem_of_its_own() -> None:
    for size, d in [((64, 64), 2048), ((32, 32), 512), ((47, 96), 1536)]:
        torch.manual_seed(0)
        resnet = ResNet18(input_shape=(1, *size)).eval()
        published = torchvision.models.resnet18().eval()
        state = {k: v for k, v in resnet.network.state_dict().items() if k != "conv1.weight"}
        missing = published.load_state_dict(state, strict=False)
        assert missing.unexpected_keys == []
        assert set(missing.missing_keys) == {"conv1.weight", "fc.weight", "fc.bias"}
        x = torch.randn(2, 1, *size)
        with torch.no_grad():
            stem = F.conv2d(x, resnet.network.conv1.weight, padding=1)
            z = F.relu(published.bn1(stem))
            for layer in (published.layer1, published.layer2, published.layer3, published.layer4):
                z = layer(z)
            expected = F.avg_pool2d(z, 4).flatten(1)
            features = resnet(x)
        assert features.shape == (2, d)
        assert torch.equal(features, expected)


def test_resnet18_stem_starts_as_torchvisions_convolutions_do() -> None:
    torch.manual_seed(0)
    weight = ResNet18(input_shape=(3, 32, 32)).network.conv1.weight
    assert weight.shape == (64, 3, 3, 3)
    # Kaiming, fan out: variance 2 / (64 * 3 * 3); the deviation of 1,728 draws is known to 1.7 %
    assert float(weight.detach().std()) == pytest.approx((2 / 576) ** 0.5, rel=0.06)


def test_resnet18_refuses_what_is_no_image_or_too_small() -> None:
    for shape in [(3, 31, 64), (3, 64, 31), (64, 64), (64,)]:
        with pytest.raises(ConfigError, match=r"at least 32x32 pixels.*use backbone=lenet"):
            ResNet18(input_shape=shape)


def celeba_conv(*, size: tuple[int, int] = (64, 64), **options: Any) -> CelebAConv:
    options = {"channels": [64, 128, 256, 512], "num_features": 512, **options}
    return CelebAConv(input_shape=(3, *size), **options)


def test_celeba_conv_has_nine_layers_of_the_published_sizes() -> None:
    with torch.device("meta"):
        network = celeba_conv()
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 512)
    sizes = [
        (m.weight.shape[1], m.weight.shape[0])
        for m in network.modules()
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    assert sizes == [
        *((3, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)),
        *((512, 512), (512, 512)),
    ]
    kernels = 9 * sum(a * b for a, b in sizes[:7]) + sum(a * b for a, b in sizes[7:])
    assert num_parameters(network) == kernels + 2 * sum(b for _, b in sizes) == 5_176_640


def test_celeba_conv_equals_its_formula() -> None:
    torch.manual_seed(0)
    network = celeba_conv(size=(17, 24), channels=[3, 4, 5, 6], num_features=7).double()
    z = x = torch.randn(4, 3, 17, 24, dtype=torch.float64)
    layers = [m for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    for index, layer in enumerate(layers):
        if index in (1, 3, 5):
            z = F.max_pool2d(z, 2)
        if index == 7:
            z = z.mean((2, 3))
        W = layer.weight
        z = F.conv2d(z, W, padding=1) if isinstance(layer, torch.nn.Conv2d) else z @ W.T
        axes = (0, 2, 3) if index < 7 else (0,)
        z = z - z.mean(axes, keepdim=True)
        z = (z / (z.square().mean(axes, keepdim=True) + 1e-5).sqrt()).relu()
    torch.testing.assert_close(network(x), z)  # float64 rounding


def test_celeba_conv_trains_on_two_examples_and_takes_one_in_evaluation() -> None:
    network = celeba_conv(size=(8, 8), channels=[2, 2, 2, 2], num_features=4)
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    with pytest.raises(ShapeError, match=r"CelebAConv needs batches of at least 2.*got 1; raise"):
        network(torch.zeros(1, 3, 8, 8))
    assert network.eval()(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


def test_celeba_conv_refuses_what_is_no_image_or_too_small() -> None:
    for shape in [(3, 7, 64), (3, 64, 7), (64, 64), (64,)]:
        with pytest.raises(ConfigError, match=r"at least 8x8 pixels.*use backbone=mlp"):
            CelebAConv(input_shape=shape, channels=[1, 1, 1, 1], num_features=1)


def test_celeba_conv_refuses_other_sizes() -> None:
    for options in [{"channels": [8, 8, 8]}, {"num_features": 0}]:
        with pytest.raises(ConfigError, match="must hold four positive numbers"):
            celeba_conv(**options)


def test_conv_backbone_keeps_the_map_and_equals_its_formula() -> None:
    torch.manual_seed(0)
    backbone = ConvNet(input_shape=(3, 15, 22), channels=[5, 4, 6], strides=[2, 1, 3]).double()
    z = x = torch.randn(2, 3, 15, 22, dtype=torch.float64)
    for layer, stride in zip(backbone.layers[::2], (2, 1, 3), strict=True):
        assert isinstance(layer, torch.nn.Conv2d)
        z = F.conv2d(z, layer.weight, layer.bias, stride=stride, padding=1).relu()
    assert z.shape == (2, 6, 3, 4)  # 15 -> 8 -> 8 -> 3, 22 -> 11 -> 11 -> 4
    torch.testing.assert_close(backbone(x), z)  # float64 rounding
    assert len(backbone.layers) == 6


def test_conv_backbone_refuses_layers_without_channels_or_stride() -> None:
    for channels, strides in [([], []), ([4, 4], [1]), ([4], [1, 1]), ([0], [1]), ([4], [0])]:
        with pytest.raises(ConfigError, match="one positive number per layer each") as caught:
            ConvNet(input_shape=(3, 8, 8), channels=channels, strides=strides)
        assert f"got {channels} and {strides}" in str(caught.value)


def test_conv_backbone_refuses_what_is_no_image() -> None:
    with pytest.raises(ConfigError, match=r"needs images.*got \[8\]; use backbone=mlp"):
        ConvNet(input_shape=(8,), channels=[4], strides=[1])


def test_conv_head_is_two_convolutions_without_activation() -> None:
    torch.manual_seed(0)
    head = ConvHead(feature_shape=(4, 5, 6), num_outputs=3).double()
    (W, b), (V, c) = ((m.weight, m.bias) for m in head if isinstance(m, torch.nn.Conv2d))
    assert (W.shape, V.shape) == ((4, 4, 3, 3), (3, 4, 1, 1))
    z = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    hidden = F.conv2d(z, W, b, padding=1)
    assert hidden.min() < 0  # an activation would show
    expected = torch.einsum("oc,nchw->nohw", V[..., 0, 0], hidden) + c[:, None, None]
    torch.testing.assert_close(head(z), expected)  # float64 rounding


def test_conv_head_refuses_features_that_are_no_map() -> None:
    for shape in [(50,), (4, 5), (4, 5, 6, 7)]:
        with pytest.raises(ConfigError, match=r"needs feature maps.*use a backbone.*or head=mlp"):
            ConvHead(feature_shape=shape, num_outputs=3)


def test_head_of_linear_layers_equals_its_formula() -> None:
    torch.manual_seed(0)
    head = MLPHead(feature_shape=(4,), num_outputs=3, hidden=[6]).double()
    (W, b), (V, c) = ((m.weight, m.bias) for m in head if isinstance(m, torch.nn.Linear))
    z = torch.randn(5, 4, dtype=torch.float64)
    expected = torch.relu(z @ W.T + b) @ V.T + c
    torch.testing.assert_close(head(z), expected)  # float64 rounding


def test_head_without_hidden_layers_is_linear_and_flattens_feature_maps() -> None:
    head = MLPHead(feature_shape=(2, 3, 3), num_outputs=4, hidden=[])
    assert num_parameters(head) == 4 * 19
    assert head(torch.zeros(5, 2, 3, 3)).shape == (5, 4)


def test_sizes_that_are_not_positive_are_refused() -> None:
    with pytest.raises(ConfigError, match="`num_features` must be at least 1, got 0"):
        LeNet(input_shape=(1, 28, 28), num_features=0)
    with pytest.raises(ConfigError, match="`hidden` must be at least 1, got 0"):
        MLP(input_shape=(2,), hidden=[0], num_features=4)
    with pytest.raises(ConfigError, match="`hidden` must be at least 1, got -1"):
        MLPHead(feature_shape=(2,), num_outputs=1, hidden=[3, -1])


def test_resnet20_has_the_published_number_of_parameters_and_features() -> None:
    network = ResNetCIFAR(
        input_shape=(3, 32, 32), blocks=3, width=16, stem_stride=1, channels_last=False
    )
    # He et al., table 6: 0.27 M with shortcuts without parameters; ours are 1x1 convolutions
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert num_parameters(network) - shortcuts + 650 == 269_722  # 650: its classifier
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 64)


def test_resnet_for_cifar_averages_maps_that_its_strides_make_smaller() -> None:
    options: dict[str, Any] = {"blocks": 2, "width": 4, "channels_last": False}
    network = ResNetCIFAR(input_shape=(3, 32, 32), stem_stride=2, **options).double().eval()
    twin = ResNetCIFAR(
        input_shape=(3, 32, 32), stem_stride=2, **{**options, "channels_last": True}
    ).double()
    twin.load_state_dict(network.state_dict())
    x = torch.randn(3, 3, 32, 32).double()
    maps = network.stages(network.stem(x))
    assert maps.shape == (3, 16, 4, 4)
    torch.testing.assert_close(network(x), maps.mean((2, 3)))
    torch.testing.assert_close(twin.eval()(x), network(x))
