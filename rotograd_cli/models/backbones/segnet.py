"""SegNet as MTAN's authors build it, alone and with the maps that MTAN's attention reads."""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.models.layers import conv_unit, start_like_mtan
from rotograd_cli.models.segnet_maps import PackedMaps, Stage, decoder_stages, encoder_stages


class SegNet(nn.Module):
    r"""Encoder and decoder of 3×3 convolutions, joined by the places of the pooled maxima.

    A level of the encoder has two (levels 0 and 1) or three units of convolution with bias,
    BatchNorm and ReLU, and 2×2 maximum pooling after it. A level of the decoder puts every value
    back where the encoder's maximum was, zeros elsewhere, and has as many units, the first of which
    takes the channels down to those of the next finer level. Weights start Xavier normal, biases at
    zero. With the published filters it has 24,943,296 parameters, and its features are a map of 64
    channels at the size of the image: 7,077,888 numbers at 288×384. This is the "split, standard"
    network without its heads (``head=conv``).

    Args:
        input_shape: Channels, height and width of an image. Height and width are divisible by
            2 to the number of levels.
        filters: Channels of every level, the finest first.

    Raises:
        ConfigError: If the input does not fit, or a level has no channels.

    References:
        Badrinarayanan, Kendall and Cipolla, "SegNet", PAMI 2017.
        Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019; the
        authors' im2im_pred/model_segnet_split.py.
    """

    def __init__(self, *, input_shape: Sequence[int], filters: Sequence[int]) -> None:
        super().__init__()
        encoder, decoder = encoder_stages(filters), decoder_stages(filters)
        divisor = 2 ** len(filters)
        if len(input_shape) != 3 or any(size < 1 or size % divisor for size in input_shape[1:]):
            raise ConfigError(
                f"{type(self).__name__} needs images whose height and width are multiples of "
                f"{divisor}, [channels, height, width], got inputs of shape {list(input_shape)}; "
                "crop or resize the images, or use backbone=conv."
            )
        widths = [input_shape[0], *filters]
        self.encoder = nn.ModuleList(
            _Level(width, stage) for width, stage in zip(widths, encoder, strict=False)
        )
        self.decoder = nn.ModuleList(_Level(stage.source, stage) for stage in decoder)
        start_like_mtan(self)

    def stages(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Computes stage by stage what attention modules read of it.

        Args:
            x: Images ``[N, C, H, W]``.

        Yields:
            Source and target of every stage: first and last map of the encoder's levels, then
            unpooled and last map of the decoder's, the coarsest first. The last target is the
            network's output.
        """
        places = []
        for level in self.encoder:
            first, last = level(x)
            yield first, last
            x, place = F.max_pool2d(last, 2, return_indices=True)
            places.append(place)
        for level in self.decoder:
            unpooled = unpool(x, places.pop())
            x = level(unpooled)[1]
            yield unpooled, x

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[N, filters[0], H, W]`` of images ``[N, C, H, W]``, not negative."""
        for _, target in self.stages(x):
            features = target
        return features


class SegNetMTAN(SegNet):
    """SegNet whose features are all maps that MTAN's attention modules read, for ``head=mtan``.

    A method owns one tensor of features; here it holds the twenty maps (of five levels), packed at
    the size of the image by :class:`~rotograd_cli.models.segnet_maps.PackedMaps`: ``[460, H, W]``
    with the published filters. The first 64 channels, and the first entries of the flattened
    features, are those of :class:`SegNet`. Parameters and start are the same, too.

    Args:
        input_shape: As for :class:`SegNet`.
        filters: As for :class:`SegNet`; those of levels j and j - 1 are divisible by 4 to the j.

    Raises:
        ConfigError: If the input does not fit, or the maps of these filters cannot be packed.

    References:
        Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019; the
        authors' im2im_pred/model_segnet_mtan.py.
    """

    def __init__(self, *, input_shape: Sequence[int], filters: Sequence[int]) -> None:
        super().__init__(input_shape=input_shape, filters=filters)
        self.maps = PackedMaps(filters)

    def forward(self, x: Tensor) -> Tensor:
        """Packed maps ``[N, C', H, W]`` of images ``[N, C, H, W]``, not negative."""
        return self.maps.pack(self.stages(x))


class _Level(nn.Module):
    """The units of one level; returns what the first and the last of them give."""

    def __init__(self, num_inputs: int, stage: Stage) -> None:
        super().__init__()
        num_more = 1 if stage.level < 2 else 2
        self.first = conv_unit(num_inputs, stage.target)
        self.rest = nn.Sequential(*(conv_unit(stage.target, stage.target) for _ in range(num_more)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x)
        return first, self.rest(first)


def unpool(x: Tensor, places: Tensor) -> Tensor:
    """Inverse of 2×2 maximum pooling, zero where the maxima were not.

    The same as ``max_unpool2d``, which refuses to run where deterministic kernels are asked for;
    windows that do not overlap leave nothing to chance.

    Args:
        x: Values, shape ``[N, C, h, w]``.
        places: Where the maxima were, as ``max_pool2d`` returns it: index into ``2h · 2w``, same
            shape.

    Returns:
        Shape ``[N, C, 2h, 2w]``.
    """
    num, channels, height, width = x.shape
    flat = x.new_zeros(num, channels, 4 * height * width)
    flat.scatter_(2, places.flatten(2), x.flatten(2))
    return flat.view(num, channels, 2 * height, 2 * width)
