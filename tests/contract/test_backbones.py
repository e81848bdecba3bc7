"""The contract of models/backbones for every file of conf/backbone, and of conf/head for heads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from rotograd_cli.config import config_dir
from rotograd_cli.errors import ConfigError

INPUT_SHAPE = (3, 32, 32)  # colour images that every shipped backbone takes
FEATURE_SHAPES = ((50,), (4, 6, 5))
BACKBONES = sorted((config_dir() / "backbone").glob("*.yaml"))
HEADS = sorted((config_dir() / "head").glob("*.yaml"))
backbones = pytest.mark.parametrize("path", BACKBONES, ids=lambda path: path.stem)
heads = pytest.mark.parametrize("path", HEADS, ids=lambda path: path.stem)


def backbone_of(path: Path, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module: nn.Module = instantiate(OmegaConf.load(path))(input_shape=INPUT_SHAPE)
    return module


def head_of(path: Path, feature_shape: tuple[int, ...]) -> nn.Module | None:
    """The head for seven outputs; None where it refuses the features."""
    try:
        module: nn.Module = instantiate(OmegaConf.load(path))(
            feature_shape=feature_shape, num_outputs=7
        )
    except ConfigError:
        return None
    return module


def features_of(backbone: nn.Module, x: Tensor) -> Tensor:
    output: Any = backbone(x)
    features: Tensor = output[0] if isinstance(output, tuple) else output
    return features


def inputs(num: int) -> Tensor:
    return torch.randn(num, *INPUT_SHAPE, generator=torch.Generator().manual_seed(1))


@backbones
def test_features_have_one_row_per_example_and_one_shape(path: Path) -> None:
    backbone = backbone_of(path)
    one, five = (features_of(backbone, inputs(num)) for num in (1, 5))
    assert (one.shape[0], five.shape[0]) == (1, 5)
    assert one.shape[1:] == five.shape[1:]
    assert five.isfinite().all()


@backbones
def test_every_parameter_takes_part_in_the_features(path: Path) -> None:
    backbone = backbone_of(path)
    features_of(backbone, inputs(16)).square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@backbones
def test_examples_do_not_see_each_other_in_evaluation(path: Path) -> None:
    backbone = backbone_of(path).double().eval()
    x = inputs(4).double()
    alone = torch.cat([features_of(backbone, row) for row in x.split(1)])
    torch.testing.assert_close(features_of(backbone, x), alone)  # float64 rounding


@backbones
def test_start_is_decided_by_the_seed(path: Path) -> None:
    first, second, other = (backbone_of(path, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@heads
def test_head_predicts_the_outputs_it_is_asked_for_or_refuses_the_features(path: Path) -> None:
    taken = [shape for shape in FEATURE_SHAPES if head_of(path, shape) is not None]
    assert taken
    for feature_shape in taken:
        head = head_of(path, feature_shape)
        assert head is not None
        z = torch.randn(5, *feature_shape)
        before = z.clone()
        prediction = head(z)
        assert prediction.shape[:2] == (5, 7)
        assert prediction.shape[2:] in ((), feature_shape[1:])  # of an example, or of every pixel
        assert torch.equal(z, before)  # all heads share the features
