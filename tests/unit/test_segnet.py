"""SegNet and MTAN: the published layers, the way of the maps, and a loop over the published net."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods import RotoGrad
from rotograd_cli.models.backbones.segnet import SegNet, SegNetMTAN, unpool
from rotograd_cli.models.heads import ConvHead, MTANHead, share_layers
from rotograd_cli.models.segnet_maps import PackedMaps

FILTERS = [64, 128, 256, 512, 512]  # published
SMALL = [4, 16, 64, 256, 256]  # five levels, packed into 59 channels
TINY = [4, 16]
OUTPUTS = (13, 1, 3)  # segmentation, depth, normals


def num_parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for p in nn.ModuleList(modules).parameters())


def conv(num_inputs: int, num_outputs: int, kernel: int = 3) -> int:
    return num_outputs * (num_inputs * kernel**2 + 1)


def unit(num_inputs: int, num_outputs: int, kernel: int = 3) -> int:
    return conv(num_inputs, num_outputs, kernel) + 2 * num_outputs  # BatchNorm


def published_segnet() -> int:
    """Parameters of the published lists of layers, shared part."""
    f = FILTERS
    pairs = list(itertools.pairwise(f))
    first = unit(3, f[0]) + unit(f[0], f[0]) + sum(unit(a, b) + unit(b, a) for a, b in pairs)
    second = 2 * unit(f[0], f[0]) + sum(unit(b, b) + unit(a, a) for a, b in pairs)
    third = sum(unit(b, b) + unit(a, a) for a, b in pairs[1:])
    return first + second + third


def published_predictor(num_outputs: int) -> int:
    return conv(64, 64) + conv(64, num_outputs, 1)


def published_mask(num_inputs: int, num_outputs: int) -> int:
    return unit(num_inputs, num_outputs, 1) + unit(num_outputs, num_outputs, 1)


def meta_heads(num_outputs: Sequence[int] = OUTPUTS, **options: Any) -> list[MTANHead]:
    shape = (460, 288, 384)
    options = {"filters": FILTERS, "shared_blocks": True, **options}
    with torch.device("meta"):
        return [MTANHead(feature_shape=shape, num_outputs=num, **options) for num in num_outputs]


def test_segnet_has_the_parameters_of_the_published_layers() -> None:
    with torch.device("meta"):
        segnet = SegNet(input_shape=(3, 288, 384), filters=FILTERS)
        head = ConvHead(feature_shape=(64, 288, 384), num_outputs=13)
        features = segnet(torch.zeros(2, 3, 288, 384))
    assert features.shape == (2, 64, 288, 384)
    assert features[0].numel() == 7_077_888
    assert num_parameters(segnet) == published_segnet() == 24_943_296
    # the number that the authors' code compares all of its networks to
    assert num_parameters(segnet, head) == published_segnet() + published_predictor(13) == 24981069


def test_mtan_has_the_parameters_of_the_published_layers() -> None:
    with torch.device("meta"):
        backbone = SegNetMTAN(input_shape=(3, 288, 384), filters=FILTERS)
        features = backbone(torch.zeros(1, 3, 288, 384))
    heads = meta_heads()
    share_layers(heads)
    f = FILTERS
    masks = published_mask(f[0], f[0]) + published_mask(2 * f[0], f[0])
    masks += sum(
        published_mask(2 * b, b) + published_mask(a + b, a) for a, b in itertools.pairwise(f)
    )
    blocks = sum(unit(a, b) for a, b in itertools.pairwise(f)) + unit(f[4], f[4])
    blocks += sum(unit(b, a) for a, b in itertools.pairwise(f[:4])) + unit(f[0], f[0])
    blocks += unit(f[4], f[4])
    published = published_segnet() + blocks + sum(masks + published_predictor(k) for k in OUTPUTS)
    # that code has three more, the weights of an uncertainty loss
    assert num_parameters(backbone, *heads) == published == 44_229_073
    assert features.shape == (1, 460, 288, 384)
    assert [head(features).shape for head in heads] == [(1, k, 288, 384) for k in OUTPUTS]


def test_without_sharing_every_task_has_its_own_blocks() -> None:
    heads = meta_heads(shared_blocks=False)
    before = num_parameters(*heads)
    share_layers(heads)
    assert num_parameters(*heads) == before
    assert len({id(head.blocks) for head in heads}) == 3


def test_levels_have_two_or_three_units_as_published() -> None:
    segnet = SegNet(input_shape=(3, 32, 32), filters=[2, 3, 4, 5, 6])
    layers = [
        [(m.in_channels, m.out_channels) for m in level.modules() if isinstance(m, nn.Conv2d)]
        for level in (*segnet.encoder, *segnet.decoder)
    ]
    encoder = [[(3, 2), (2, 2)], [(2, 3), (3, 3)]]
    encoder += [[(a, b), (b, b), (b, b)] for a, b in ((3, 4), (4, 5), (5, 6))]
    decoder = [[(b, a), (a, a), (a, a)] for a, b in ((5, 6), (4, 5), (3, 4))]
    assert layers == [*encoder, *decoder, [(3, 2), (2, 2)], [(2, 2), (2, 2)]]


def test_weights_start_as_published() -> None:
    for kind in ["backbone", "conv", "mtan"]:
        torch.manual_seed(0)
        network: nn.Module = {
            "backbone": lambda: SegNet(input_shape=(3, 4, 4), filters=[64, 128]),
            "conv": lambda: ConvHead(feature_shape=(64, 2, 2), num_outputs=13),
            "mtan": lambda: mtan_head([64, 128], 4),
        }[kind]()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                assert module.bias is not None
                assert not module.bias.any()
                weight = module.weight.detach()
                area = weight[0, 0].numel()
                variance = 2 / (area * (weight.shape[0] + weight.shape[1]))  # Xavier
                # the deviation of n normal draws is known to 1 / sqrt(2 n): five times that
                tolerance = 5 / (2 * weight.numel()) ** 0.5
                assert float(weight.std()) == pytest.approx(variance**0.5, rel=tolerance)
            if isinstance(module, nn.BatchNorm2d):
                assert bool((module.weight == 1).all())
                assert not module.bias.any()


def test_unpooling_puts_values_where_the_maxima_were() -> None:
    x = torch.tensor([[1.0, 5, 2, 0], [3, 4, 9, 7]])[None, None]
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    assert pooled.tolist() == [[[[5.0, 9.0]]]]
    expected = [[0.0, 5, 0, 0], [0, 0, 9, 0]]
    assert unpool(pooled, places)[0, 0].tolist() == expected


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_unpooling_equals_torchs_and_runs_where_that_refuses(deterministic: None) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 6, 10, generator=generator)
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    ours = unpool(pooled.requires_grad_(), places)
    weights = torch.randn(x.shape, generator=generator)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), pooled)
    torch.use_deterministic_algorithms(False)
    theirs = F.max_unpool2d(pooled, places, 2)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), pooled)
    assert torch.equal(ours, theirs)
    assert torch.equal(gradient, expected)


def apply_unit(module: Any, x: Tensor) -> Tensor:
    """Convolution, BatchNorm with the statistics of the batch, ReLU, from their definitions."""
    layer, norm = module[0], module[1]
    z = F.conv2d(x, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)
    mean, variance = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), correction=0, keepdim=True)
    z = (z - mean) / (variance + norm.eps).sqrt()
    z = z * norm.weight[:, None, None] + norm.bias[:, None, None]
    return z.clamp_min(0) if isinstance(module[2], nn.ReLU) else z.sigmoid()


def apply_mask(module: Any, x: Tensor) -> Tensor:
    return apply_unit(module[1:], apply_unit(module[0], x))


def published_maps(backbone: Any, x: Tensor) -> dict[str, list[Tensor]]:
    """The shared network of the published code, maps by its names."""
    u, p, up, d, places = [], [], [], [], []
    for level in backbone.encoder:
        u.append(apply_unit(level.first, x))
        z = u[-1]
        for layers in level.rest:
            z = apply_unit(layers, z)
        p.append(z)
        x, place = F.max_pool2d(z, 2, return_indices=True)
        places.append(place)
    for level, place in zip(backbone.decoder, reversed(places), strict=True):
        up.append(F.max_unpool2d(x, place, 2))
        z = apply_unit(level.first, up[-1])
        for layers in level.rest:
            z = apply_unit(layers, z)
        x = z
        d.append(x)
    return {"u": u, "p": p, "up": up, "d": d}


def published_attention(head: Any, maps: dict[str, list[Tensor]]) -> Tensor:
    """One task of the published code: its five encoder and five decoder modules, predictor."""
    f_encoder, f_decoder = head.blocks[:5], head.blocks[5:]
    m_encoder, m_decoder = head.masks[:5], head.masks[5:]
    a = apply_mask(m_encoder[0], maps["u"][0]) * maps["p"][0]
    a = F.max_pool2d(apply_unit(f_encoder[0], a), kernel_size=2, stride=2)
    for j in (1, 2, 3, 4):
        a = apply_mask(m_encoder[j], torch.cat((maps["u"][j], a), dim=1)) * maps["p"][j]
        a = F.max_pool2d(apply_unit(f_encoder[j], a), kernel_size=2, stride=2)
    for j in range(5):
        size = [2 * s for s in a.shape[2:]]
        a = F.interpolate(a, size, mode="bilinear", align_corners=True)
        a = apply_unit(f_decoder[j], a)
        a = apply_mask(m_decoder[j], torch.cat((maps["up"][j], a), dim=1)) * maps["d"][j]
    wide, narrow = head.predictor
    return F.conv2d(F.conv2d(a, wide.weight, wide.bias, padding=1), narrow.weight, narrow.bias)


def mtan_head(filters: list[int], num_outputs: int, size: int = 32) -> MTANHead:
    shape = (PackedMaps(filters).num_channels, size, size)
    return MTANHead(
        feature_shape=shape, num_outputs=num_outputs, filters=filters, shared_blocks=True
    )


def test_mtan_equals_a_loop_over_the_published_network() -> None:
    torch.manual_seed(0)
    backbone = SegNetMTAN(input_shape=(3, 32, 64), filters=SMALL).double()
    channels = PackedMaps(SMALL).num_channels
    head = MTANHead(
        feature_shape=(channels, 32, 64), num_outputs=3, filters=SMALL, shared_blocks=True
    ).double()
    x = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    maps = published_maps(backbone, x)
    expected = published_attention(head, maps)
    z = backbone(x)
    prediction = head(z)
    torch.testing.assert_close(z[:, :4], maps["d"][-1])  # float64 rounding
    torch.testing.assert_close(prediction, expected)
    parameters = [*backbone.parameters(), *head.parameters()]
    loss = torch.randn_like(expected)
    ours = torch.autograd.grad((prediction * loss).sum(), parameters)
    theirs = torch.autograd.grad((expected * loss).sum(), parameters)
    # biases before BatchNorm have the gradient 0, up to the rounding of the sums it is made of
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    for ours_one, theirs_one in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_one, theirs_one, rtol=1e-8, atol=1e-11 * scale)


def test_features_of_segnet_come_first_among_the_packed_maps() -> None:
    torch.manual_seed(0)
    segnet = SegNet(input_shape=(3, 32, 32), filters=SMALL)
    mtan = SegNetMTAN(input_shape=(3, 32, 32), filters=SMALL)
    mtan.load_state_dict(segnet.state_dict())
    x = torch.randn(2, 3, 32, 32)
    features = segnet(x)
    packed = mtan(x)
    assert torch.equal(packed[:, :4], features)
    assert torch.equal(packed.flatten(1)[:, :1024], features.flatten(1)[:, :1024])


def random_stages(filters: list[int], size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    levels = range(len(filters))
    encoder = [(filters[j], filters[j], j) for j in levels]
    decoder = [(filters[j], filters[max(j - 1, 0)], j) for j in reversed(levels)]
    h, w = size
    return [
        (torch.randn(2, a, h >> j, w >> j), torch.randn(2, b, h >> j, w >> j))
        for a, b, j in (*encoder, *decoder)
    ]


def test_maps_come_out_bit_by_bit_as_they_went_in() -> None:
    for memory_format in [torch.contiguous_format, torch.channels_last]:
        torch.manual_seed(0)
        stages = random_stages(SMALL, (64, 32))
        maps = PackedMaps(SMALL)
        packed = maps.pack(stages).to(memory_format=memory_format)
        assert packed.shape == (2, maps.num_channels, 64, 32)
        for stage, expected in zip(maps.unpack(packed), stages, strict=True):
            assert all(torch.equal(got, want) for got, want in zip(stage, expected, strict=True))
        last, first = stages[-1][1], stages[0][0]
        assert torch.equal(packed[:, :4], last)
        assert torch.equal(packed[:, 4:8], first)


def test_unpacked_maps_are_views() -> None:
    packed = torch.randn(2, PackedMaps(SMALL).num_channels, 32, 32)
    for stage in PackedMaps(SMALL).unpack(packed):
        assert all(m.untyped_storage().data_ptr() == packed.data_ptr() for m in stage)


def test_heads_share_blocks_and_nothing_else_and_a_copy_still_does() -> None:
    torch.manual_seed(0)
    heads = [mtan_head(TINY, k, 8) for k in OUTPUTS]
    own = num_parameters(*heads)
    share_layers(heads)
    blocks = num_parameters(heads[0].blocks)
    assert num_parameters(*heads) == own - 2 * blocks
    backbone = SegNetMTAN(input_shape=(3, 8, 8), filters=TINY)
    model = RotoGrad(backbone, heads, [1, 1, 16])
    network = num_parameters(backbone) + own - 2 * blocks
    assert sum(p.numel() for p in model.model_parameters()) == network
    for twin in (model, copy.deepcopy(model)):
        assert all(head.blocks is twin.heads[0].blocks for head in twin.heads)
        assert len({id(head.masks) for head in twin.heads}) == 3
    backbone = SegNetMTAN(input_shape=(3, 8, 8), filters=TINY)
    other = RotoGrad(backbone, copy.deepcopy(heads), [1, 1, 16])
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 8, 8)
    for ours, theirs in zip(model.eval()(x), other.eval()(x), strict=True):
        assert torch.equal(ours, theirs)


def test_shared_blocks_get_the_sum_of_the_tasks_gradients() -> None:
    torch.manual_seed(0)
    heads = [mtan_head(TINY, 1, 8).double().eval() for _ in range(2)]
    share_layers(heads)
    z = torch.rand(2, PackedMaps(TINY).num_channels, 8, 8, dtype=torch.float64)
    weight = heads[0].blocks[0][0].weight  # type: ignore[index]
    alone = [torch.autograd.grad(head(z).sum(), weight)[0] for head in heads]
    (together,) = torch.autograd.grad(sum(head(z).sum() for head in heads), weight)
    torch.testing.assert_close(together, alone[0] + alone[1])  # float64 rounding


def test_heads_with_other_options_are_not_joined() -> None:
    heads = [*meta_heads((1,)), *meta_heads((1,), shared_blocks=False)]
    with pytest.raises(ConfigError, match="`shared_blocks` must be the same for all tasks"):
        share_layers(heads)


def test_images_that_cannot_be_halved_five_times_are_refused() -> None:
    for kind in [SegNet, SegNetMTAN]:
        for shape in [(3, 288, 380), (3, 16, 32), (3, 0, 32), (288, 384), (64,)]:
            with pytest.raises(ConfigError, match=r"multiples of 32.*crop or resize") as caught:
                kind(input_shape=shape, filters=FILTERS)
            assert f"got inputs of shape {list(shape)}" in str(caught.value)


def test_levels_without_channels_are_refused() -> None:
    for filters in [[], [4, 0], [-1]]:
        with pytest.raises(ConfigError, match="one positive number of channels per level"):
            SegNet(input_shape=(3, 32, 32), filters=filters)


def test_filters_whose_maps_cannot_be_packed_are_refused() -> None:
    for filters, level, channels in [([4, 6], 1, 6), ([3, 4], 1, 3), ([4, 16, 24], 2, 24)]:
        words = f"level {level} a multiple of {4**level} channels.*got {channels} of"
        with pytest.raises(ConfigError, match=words):
            SegNetMTAN(input_shape=(3, 32, 32), filters=filters)


def test_mtan_head_refuses_what_are_no_packed_maps() -> None:
    for shape, words in [
        ((50,), "needs feature maps"),
        ((64, 32, 32), r"\[460, height, width\], multiples of 32, got .*\[64, 32, 32\]; use"),
        ((460, 32, 40), r"got features of shape \[460, 32, 40\]; use backbone=segnet_mtan"),
    ]:
        with pytest.raises(ConfigError, match=words):
            MTANHead(feature_shape=shape, num_outputs=1, filters=FILTERS, shared_blocks=True)


def test_mtan_head_without_a_backbone_of_levels_says_which_one_it_needs() -> None:
    with pytest.raises(ConfigError, match=r"got null; use backbone=segnet_mtan"):
        MTANHead(feature_shape=(50,), num_outputs=1, filters=None, shared_blocks=True)
