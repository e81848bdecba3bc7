"""Networks of torchvision, timm, Hugging Face and of anybody as backbones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models import SwinTransformer, feature_extraction, get_model

from rotograd_cli.config.files import config_dir
from rotograd_cli.errors import ConfigError, DatasetError, RankError, ShapeError
from rotograd_cli.models.backbones.wrapped import Wrapped
from rotograd_cli.models.features import LibraryNetwork, pooled
from rotograd_cli.ranks.base import ONE
from rotograd_cli.ranks.layers import see_whole_batch

IMAGES = (3, 32, 32)


def backbone(name: str, input_shape: tuple[int, ...] = IMAGES, **options: Any) -> Any:
    node = OmegaConf.load(config_dir() / "backbone" / f"{name}.yaml")
    torch.manual_seed(0)
    return instantiate(node, **options)(input_shape=input_shape)


def inputs(*shape: int) -> Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))


def before_classifier(network: nn.Module, x: Tensor) -> Tensor:
    """What the last child of a network gets."""
    found: list[Tensor] = []
    (*_, classifier) = network.children()
    classifier.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    network.eval()(x)
    return found[0]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_features_are_what_torchvisions_classifier_gets(name: str) -> None:
    torch.manual_seed(0)
    original = get_model(name)
    features = backbone("torchvision", model=name).eval()(inputs(*IMAGES))
    expected = before_classifier(original, inputs(*IMAGES)).flatten(1)
    assert torch.equal(features, expected)


def test_a_layer_is_named_and_its_map_kept_averaged_or_flattened() -> None:
    network = backbone("torchvision").network
    found: list[Tensor] = []
    network.layer2.register_forward_hook(lambda module, args, output: found.append(output))
    network.eval()(inputs(*IMAGES))
    features = {
        pool: backbone("torchvision", layer="layer2", pool=pool).eval()(inputs(*IMAGES))
        for pool in (None, "mean", "flatten")
    }
    assert torch.equal(features[None], found[0])
    assert features[None].shape == (2, 128, 4, 4)
    assert torch.equal(features["mean"], found[0].mean((2, 3)))
    assert torch.equal(features["flatten"], found[0].flatten(1))
    cut = backbone("torchvision", layer="layer2")
    assert not [name for name, _ in cut.named_parameters() if "layer3" in name or "fc" in name]


def test_the_mean_over_maps_with_channels_last_is_refused() -> None:
    """It would be over rows and channels: features of the length of an image's side."""
    sizes = {"patch_size": [4, 4], "depths": [2], "num_heads": [1], "window_size": [2, 2]}
    swin = SwinTransformer(embed_dim=8, **sizes)
    assert swin.features(inputs(*IMAGES)).shape == (2, 8, 8, 8)
    with pytest.raises(ConfigError, match=r"inside of SwinTransformer are \[N, H, W, d\]; set"):
        LibraryNetwork(swin, "features.1", "mean", feature_extraction)
    flat = LibraryNetwork(swin, "features.1", "flatten", feature_extraction)
    assert flat(inputs(*IMAGES)).shape == (2, 512)


def test_weights_of_torchvision_fit_other_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """``DEFAULT`` without a network connection: the file's content is made up."""
    from torchvision.models import ResNet18_Weights

    original = get_model("resnet18")
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *a, **k: original.state_dict())
    gray = inputs(1, 32, 32)
    network = backbone("torchvision", (1, 32, 32), weights="DEFAULT").eval()
    expected = before_classifier(original, gray.expand(-1, 3, -1, -1))
    torch.testing.assert_close(network(gray), expected, rtol=1e-4, atol=1e-5)  # another sum


def test_without_a_connection_weights_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*args: Any, **options: Any) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DatasetError, match=r"resnet18-.*no route.*or train from scratch") as error:
        backbone("torchvision", weights="DEFAULT")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet19"}, r"got 'resnet19'; did you mean resnet\d+\?"),
        ({"weights": "w.pth"}, r"\(IMAGENET1K_V1.*got 'w.pth'; load a file with init_from=FILE"),
        ({"layer": "layr3"}, r"got 'layr3'; did you mean layer3\?"),
        ({"layer": "zzz"}, "got 'zzz'; choose from avgpool, bn1, conv1, fc, "),
    ],
)
def test_what_torchvision_does_not_have_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        backbone("torchvision", **options)


def test_other_inputs_than_images_are_refused() -> None:
    for name in ("torchvision", "timm"):
        with pytest.raises(ConfigError, match=r"needs images of at least .*got \[7\]"):
            backbone(name, (7,))


def test_a_vision_transformer_fits_the_images() -> None:
    features = backbone("torchvision", model="vit_b_32")
    assert features.eval()(inputs(*IMAGES)).shape == (2, 768)


def test_features_are_what_timms_classifier_gets() -> None:
    timm = pytest.importorskip("timm")
    options = {"drop_path_rate": 0.1}
    features = backbone("timm", (1, 32, 32), options=options).eval()(inputs(1, 32, 32))
    torch.manual_seed(0)
    original = timm.create_model("resnet18", in_chans=1, num_classes=0).eval()
    assert torch.equal(features, original(inputs(1, 32, 32)))
    tokens = backbone(
        "timm",
        model="vit_tiny_patch16_224",
        layer="blocks.1",
        pool="first",
        options={"img_size": 32},
    )
    assert tokens.eval()(inputs(*IMAGES)).shape == (2, 192)


def test_what_timm_does_not_have_is_refused_and_not_looked_for_on_a_hub() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=r"got 'resnet19'; did you mean resnet"):
        backbone("timm", model="resnet19")
    with pytest.raises(ConfigError, match="got 'hf-hub:someone/network'"):
        backbone("timm", model="hf-hub:someone/network")


def test_without_timm_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"backbone=timm needs the extra 'timm' .*pip install"):
        backbone("timm")


def test_layers_whose_random_numbers_ranks_cannot_share_are_refused() -> None:
    from torchvision.ops import StochasticDepth

    see_whole_batch(nn.Sequential(StochasticDepth(0.0, "row")), ONE)
    with pytest.raises(RankError, match="got StochasticDepth"):
        see_whole_batch(nn.Sequential(StochasticDepth(0.1, "row")), ONE)


# ---- any network


class Fields(NamedTuple):
    hidden: Tensor
    pooled: Tensor


class Returns(nn.Module):
    def __init__(self, how: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Any:
        return self.how(x)


def wrapped(how: Callable[[Tensor], Any], output: Any, pool: Any = None) -> Wrapped:
    return Wrapped(input_shape=None, module=lambda: Returns(how), output=output, pool=pool)


def test_the_output_is_chosen_by_key_attribute_or_position() -> None:
    x = torch.randn(2, 3)
    cases: list[tuple[Callable[[Tensor], Any], Any]] = [
        (lambda x: {"hidden": x}, "hidden"),
        (lambda x: Fields(-x, x), "pooled"),
        (lambda x: (-x, x), 1),
        (lambda x: (x, -x), None),
        (lambda x: x, None),
    ]
    for how, output in cases:
        assert torch.equal(wrapped(how, output)(x), x)


def test_an_output_that_is_not_there_is_refused_with_those_that_are() -> None:
    x = torch.randn(2, 3)
    for output in ("hiden", None):
        with pytest.raises(ShapeError, match=r"choose hidden, mask with backbone\.output=NAME"):
            wrapped(lambda x: {"hidden": x, "mask": x}, output)(x)
    with pytest.raises(ShapeError, match=r"choose 0 to 1 with backbone\.output=NUMBER"):
        wrapped(lambda x: (x, x), 5)(x)


def test_features_become_vectors() -> None:
    tokens, maps = torch.randn(2, 5, 3), torch.randn(2, 3, 4, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    mean = pooled(tokens, "mean", mask)
    torch.testing.assert_close(mean[0], tokens[0, :3].mean(0))
    torch.testing.assert_close(mean[1], tokens[1, 0])
    torch.testing.assert_close(pooled(tokens, "mean"), tokens.mean(1))
    assert torch.equal(pooled(tokens, "first"), tokens[:, 0])
    assert pooled(maps, "flatten").shape == (2, 48)
    assert pooled(maps, None) is maps
    with pytest.raises(ShapeError, match=r"pool=first` needs features \[N, T, d\], got \[2, 3"):
        pooled(maps, "first")


def test_an_encoder_of_hugging_face_is_a_backbone() -> None:
    """Its mean over tokens leaves out what the attention mask does: padding changes nothing."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        vocab_size=20,
    )
    encoder = Wrapped(
        input_shape=None,
        module=transformers.BertModel(config),
        output="last_hidden_state",
        pool="mean",
    ).eval()
    ids = torch.randint(1, 20, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.int64)
    padded = nn.functional.pad(ids, (0, 3))
    features = encoder(input_ids=padded, attention_mask=nn.functional.pad(mask, (0, 3)))
    torch.testing.assert_close(features, encoder(input_ids=ids, attention_mask=mask))
    assert torch.equal(encoder(ids), encoder.module(ids).last_hidden_state.mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("layer", [None, "layer3"])
def test_a_network_compiles_as_one_graph_and_can_be_exported(layer: str | None) -> None:
    network = backbone("torchvision", layer=layer)
    compiled: Any = torch.compile(network, backend="eager", fullgraph=True)
    for mode in (True, False):
        network.train(mode)
        torch.testing.assert_close(compiled(inputs(*IMAGES)), network(inputs(*IMAGES)))
    program = torch.export.export(network.eval(), (inputs(*IMAGES),))
    torch.testing.assert_close(program.module()(inputs(*IMAGES)), network(inputs(*IMAGES)))
