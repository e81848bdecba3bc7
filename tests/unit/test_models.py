"""Backbones and heads: sizes by the formulas of the papers, errors of wrong ones."""

import pytest
import torch

from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.models.backbones.lenet import LeNet
from rotograd_cli.models.backbones.mlp import MLP
from rotograd_cli.models.heads import MLPHead


def num_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_lenet_has_the_sizes_of_multimnist() -> None:
    lenet = LeNet(input_shape=(1, 28, 28), num_features=50)
    # conv 1 -> 10 and 10 -> 20 of 5x5, then 320 -> 50 (Sener and Koltun)
    assert num_parameters(lenet) == 10 * 26 + 20 * 251 + 50 * 321
    assert lenet(torch.zeros(3, 1, 28, 28)).shape == (3, 50)


def test_lenet_takes_the_smallest_image_it_promises() -> None:
    lenet = LeNet(input_shape=(3, 16, 16), num_features=2)
    assert lenet(torch.zeros(1, 3, 16, 16)).shape == (1, 2)


@pytest.mark.parametrize("shape", [(1, 15, 28), (28, 28), (64,)])
def test_lenet_refuses_what_is_no_image_or_too_small(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"at least 16x16 pixels.*use backbone=mlp"):
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
    with pytest.raises(ConfigError, match=r"must be positive, got \[0\] and 4"):
        MLP(input_shape=(2,), hidden=[0], num_features=4)
    with pytest.raises(ConfigError, match=r"positive sizes, got \[3, -1\]"):
        MLPHead(feature_shape=(2,), num_outputs=1, hidden=[3, -1])
