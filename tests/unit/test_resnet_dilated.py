"""Dilated ResNet50 and DeepLab's head: torchvision's network, LibMTL's rule, missing weights."""

import copy
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50
from torchvision.models.segmentation import deeplabv3_resnet50

from rotograd_cli.errors import ConfigError, DatasetError, ShapeError
from rotograd_cli.models.backbones.resnet_dilated import ResNet50Dilated
from rotograd_cli.models.heads import ASPPHead

FILE = "resnet50-0676ba61.pth"


def head_of(**options: Any) -> ASPPHead:
    values = {
        "feature_shape": (2048, 5, 7),
        "num_outputs": 3,
        "atrous_rates": [12, 24, 36],
        "upsample": 8,
    }
    return ASPPHead(**{**values, **options})


def test_network_is_torchvisions_deeplab_with_aligned_corners() -> None:
    torch.manual_seed(0)
    published = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=3).eval()
    backbone = ResNet50Dilated(input_shape=(3, 40, 56), pretrained=False).eval()
    head = head_of().eval()
    backbone.layers.load_state_dict(published.backbone.state_dict())
    head.layers.load_state_dict(published.classifier.state_dict())
    x = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        expected = published.backbone(x)["out"]
        features = backbone(x)
        assert torch.equal(features, expected)
        map_ = published.classifier(expected)
        map_ = F.interpolate(map_, (40, 56), mode="bilinear", align_corners=True)
        assert torch.equal(head(features), map_)
    assert features.shape == (2, 2048, 5, 7)


def test_dilations_are_those_of_libmtls_rule() -> None:
    # its code changes a plain ResNet50: no stride in the stages 3 and 4; 3x3 convolutions get
    # dilation 2 and 4, where a stride was taken out half of that
    expected = {}
    for name, module in resnet50().named_modules():
        if isinstance(module, nn.Conv2d):
            stride, dilation = module.stride[0], 1
            if name.startswith(("layer3", "layer4")):
                whole = 2 if name.startswith("layer3") else 4
                if module.kernel_size == (3, 3):
                    dilation = whole // 2 if stride == 2 else whole
                stride = 1
            padding = dilation if module.kernel_size == (3, 3) else module.padding[0]
            expected[name] = (stride, dilation, padding)
    network = ResNet50Dilated(input_shape=(3, 8, 8), pretrained=False).layers
    found = {
        name: (module.stride[0], module.dilation[0], module.padding[0])
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    assert found == expected
    assert len(found) == 53  # stem, 16 blocks of three, four shortcuts


def test_shapes_and_parameters_at_the_published_size() -> None:
    with torch.device("meta"):
        backbone = ResNet50Dilated(input_shape=(3, 288, 384), pretrained=False)
        head = head_of(num_outputs=13)
        features = backbone(torch.zeros(2, 3, 288, 384))
        prediction = head(features)
    assert features.shape == (2, 2048, 36, 48)
    assert prediction.shape == (2, 13, 288, 384)
    # ResNet50 has 25,557,032 parameters, 1000 * 2049 of them in its classifier
    assert sum(p.numel() for p in backbone.parameters()) == 25_557_032 - 2_049_000 == 23_508_032
    one, dilated = 2048 * 256 + 512, 9 * 2048 * 256 + 512  # convolution without bias, BatchNorm
    aspp = 2 * one + 3 * dilated + 5 * 256 * 256 + 512
    rest = 9 * 256 * 256 + 512 + 13 * 257
    assert sum(p.numel() for p in head.parameters()) == aspp + rest == 16_128_781


def test_head_upsamples_by_its_factor() -> None:
    head = head_of(feature_shape=(6, 5, 7), upsample=3, atrous_rates=[2]).eval()
    assert head(torch.zeros(1, 6, 5, 7)).shape == (1, 3, 15, 21)


def test_training_on_one_example_is_refused_in_words_and_evaluating_it_works() -> None:
    head = head_of(feature_shape=(6, 5, 7))
    with pytest.raises(ShapeError, match=r"at least 2 examples in training.*train.batch_size"):
        head(torch.zeros(1, 6, 5, 7))
    assert head(torch.zeros(2, 6, 5, 7)).shape == (2, 3, 40, 56)
    assert head.eval()(torch.zeros(1, 6, 5, 7)).shape == (1, 3, 40, 56)


def test_images_that_are_not_coloured_are_refused() -> None:
    for shape in [(1, 32, 32), (4, 32, 32), (32, 32), (3, 0, 32), (64,)]:
        with pytest.raises(ConfigError, match=r"needs colour images.*use backbone=conv"):
            ResNet50Dilated(input_shape=shape, pretrained=False)


def test_head_refuses_wrong_options() -> None:
    for options, words in [
        ({"feature_shape": (50,)}, "ASPPHead needs feature maps"),
        ({"num_outputs": 0}, "`num_outputs` must be at least 1"),
        ({"upsample": 0}, "`upsample` must be at least 1, got 0"),
        ({"atrous_rates": [0]}, "`atrous_rates` must be at least 1, got 0"),
    ]:
        with pytest.raises(ConfigError, match=words):
            head_of(**options)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder torch keeps models in, empty; nothing can be downloaded."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    result = tmp_path / "hub" / "checkpoints"
    result.mkdir(parents=True)
    return result


def test_without_a_connection_the_error_names_file_folder_and_remedy(folder: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        ResNet50Dilated(input_shape=(3, 32, 32), pretrained=True)
    message = str(caught.value)
    assert f"ImageNet weights {FILE} could not be read or downloaded" in message
    assert "no route to host" in message
    assert f"into {folder}" in message
    assert "backbone.pretrained=false" in message
    assert "\n" not in message


def test_a_file_that_is_there_is_used_without_a_connection(folder: Path) -> None:
    torch.manual_seed(5)
    weights = resnet50().state_dict()
    torch.save(weights, folder / FILE)
    backbone = ResNet50Dilated(input_shape=(3, 32, 32), pretrained=True)
    state = backbone.layers.state_dict()
    assert state.keys() == {key for key in weights if not key.startswith("fc.")}
    assert all(torch.equal(value, weights[key]) for key, value in state.items())


@pytest.mark.parametrize("kind", ["damaged", "other network", "empty"])
def test_a_file_that_cannot_be_used_is_one_line_too(folder: Path, kind: str) -> None:
    if kind == "other network":
        torch.save(nn.Linear(2, 2).state_dict(), folder / FILE)
    else:
        (folder / FILE).write_bytes(b"<html>quota exceeded" if kind == "damaged" else b"")
    with pytest.raises(DatasetError, match=r"could not be read.*backbone.pretrained=false") as e:
        ResNet50Dilated(input_shape=(3, 32, 32), pretrained=True)
    assert "\n" not in str(e.value)


def test_head_can_be_copied_and_needs_no_copy_of_its_input() -> None:
    head = head_of(feature_shape=(6, 5, 7)).eval()
    z = torch.randn(2, 6, 5, 7)
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin(z), head(z))
    assert not any(getattr(module, "inplace", False) for module in head.modules())
