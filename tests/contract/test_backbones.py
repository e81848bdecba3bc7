"""The contract of models/backbones for every file of conf/backbone, and of conf/head for heads."""

import copy
import itertools
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from rotograd_cli.config.files import config_dir
from rotograd_cli.errors import ConfigError, ShapeError

INPUT_SHAPE = (3, 32, 32)  # colour images that every shipped backbone takes
FEATURE_SHAPES = ((7,), (50,), (4, 6, 5))
BACKBONES = sorted((config_dir() / "backbone").glob("*.yaml"))
HEADS = sorted((config_dir() / "head").glob("*.yaml"))
backbones = pytest.mark.parametrize("path", BACKBONES, ids=lambda path: path.stem)
heads = pytest.mark.parametrize("path", HEADS, ids=lambda path: path.stem)


def node_of(path: Path) -> Any:
    """Content of a file, with the network that ``module.yaml`` leaves to the user."""
    node = OmegaConf.load(path)
    if path.stem == "timm":
        node.options = {"zero_init_last": False}  # no gradient reaches a branch that is zero
    if path.stem == "module":
        linear = {"in_channels": 3, "out_channels": 8, "kernel_size": 3}
        node.module.update({"_target_": "torch.nn.Conv2d", **linear})
    return node


def drawn(path: Path, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    module: nn.Module = instantiate(node_of(path))(input_shape=INPUT_SHAPE)
    return module


@cache
def _first(path: Path) -> nn.Module:
    return drawn(path, 0)


def backbone_of(path: Path) -> nn.Module:
    """A network of seed 0: a copy, as to draw millions of numbers takes longer."""
    return copy.deepcopy(_first(path))


def head_of(
    path: Path, feature_shape: tuple[int, ...], backbone: Path | None = None
) -> nn.Module | None:
    """The head for seven outputs; None where it refuses the features. It may name the backbone."""
    options = {} if backbone is None else {"backbone": node_of(backbone)}
    config = OmegaConf.create({"head": OmegaConf.load(path), **options})
    torch.manual_seed(0)
    try:
        module: nn.Module = instantiate(config.head)(feature_shape=feature_shape, num_outputs=7)
    except ConfigError:
        return None
    return module


@cache
def feature_shape_of(path: Path) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(features_of(backbone_of(path).eval(), inputs(1)).shape[1:])


def heads_of(path: Path) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """The head for all features it takes: of plain shapes, and of all backbones."""
    plain: list[tuple[tuple[int, ...], Path | None]] = [(shape, None) for shape in FEATURE_SHAPES]
    of_backbones = ((feature_shape_of(backbone), backbone) for backbone in BACKBONES)
    for shape, backbone in itertools.chain(plain, of_backbones):
        head = head_of(path, shape, backbone)
        if head is not None:
            yield head, shape


def features_of(backbone: nn.Module, x: Tensor) -> Tensor:
    output: Any = backbone(x)
    features: Tensor = output[0] if isinstance(output, tuple) else output
    return features


def inputs(num: int) -> Tensor:
    return torch.randn(num, *INPUT_SHAPE, generator=torch.Generator().manual_seed(1))


@backbones
def test_features_have_one_row_per_example_and_one_shape(path: Path) -> None:
    backbone = backbone_of(path)
    five = features_of(backbone, inputs(5))
    one = features_of(backbone.eval(), inputs(1))
    assert (one.shape[0], five.shape[0]) == (1, 5)
    assert one.shape[1:] == five.shape[1:]
    assert five.isfinite().all()


@backbones
def test_training_on_one_example_works_or_is_refused_in_words(path: Path) -> None:
    backbone = backbone_of(path)
    refusals = []
    try:
        assert features_of(backbone, inputs(1)).isfinite().all()
    except ShapeError as error:
        refusals.append(str(error))
    assert all("at least 2 examples in training" in message for message in refusals)


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
    first, second, other = (drawn(path, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@backbones
def test_backbone_can_be_copied_and_pickled(path: Path) -> None:
    backbone = backbone_of(path).eval()
    x = inputs(2)
    expected = features_of(backbone, x)
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(features_of(twin, x), expected)


@heads
def test_head_predicts_the_outputs_it_is_asked_for_or_refuses_the_features(path: Path) -> None:
    taken = 0
    for head, feature_shape in heads_of(path):
        taken += 1
        z = torch.randn(5, *feature_shape)
        before = z.clone()
        prediction = head(z)
        assert prediction.shape[:2] == (5, 7)
        sizes = prediction.shape[2:]  # of an example, or of every pixel, or finer than that
        factor = sizes[0] // feature_shape[1] if sizes else 0
        assert sizes in ((), tuple(factor * size for size in feature_shape[1:]))
        assert factor > 0 or not sizes
        assert torch.equal(z, before)  # all heads share the features
    assert taken


@heads
def test_head_needs_no_copy_of_the_features(path: Path) -> None:
    head, _ = next(heads_of(path))
    assert not any(getattr(module, "inplace", False) for module in head.modules())


@heads
def test_every_parameter_of_a_head_takes_part_in_the_prediction(path: Path) -> None:
    head, feature_shape = next(heads_of(path))
    z = torch.randn(5, *feature_shape, requires_grad=True)
    head(z).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@heads
def test_head_keeps_examples_apart_in_evaluation_and_can_be_copied(path: Path) -> None:
    head, feature_shape = next(heads_of(path))
    head.double().eval()
    z = torch.randn(3, *feature_shape, dtype=torch.float64)
    expected = head(z)
    alone = torch.cat([head(row) for row in z.split(1)])
    torch.testing.assert_close(alone, expected)  # float64 rounding
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin(z), expected)
