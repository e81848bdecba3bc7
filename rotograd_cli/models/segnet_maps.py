r"""The maps of a SegNet that others read, and how they travel as one tensor.

A stage of a SegNet hands out two maps: its *source*, from which an attention module computes a
mask, and its *target*, which the mask is applied to (MTAN, Liu et al., CVPR 2019). In the encoder
these are the first and the last map of a level, in the decoder the unpooled map and the last one.
A map of level j is :math:`2^j` times smaller than the image in each direction.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError


@dataclass(frozen=True)
class Stage:
    """One level of the encoder or decoder."""

    level: int
    """j; its maps have H / 2^j rows and W / 2^j columns."""
    source: int
    """Channels of the map that a mask is computed from."""
    target: int
    """Channels of the map that the mask is applied to."""


def encoder_stages(filters: Sequence[int]) -> list[Stage]:
    """Stages of the encoder in the order of computation.

    Args:
        filters: Channels of every level.

    Returns:
        One stage per level, the finest first.

    Raises:
        ConfigError: If there is no level, or one has no channels.
    """
    if not filters or min(filters) < 1:
        raise ConfigError(
            f"`filters` must hold one positive number of channels per level, got {list(filters)}."
        )
    return [Stage(level, width, width) for level, width in enumerate(filters)]


def decoder_stages(filters: Sequence[int]) -> list[Stage]:
    """Stages of the decoder in the order of computation.

    Args:
        filters: Channels of every level.

    Returns:
        One stage per level, the coarsest first. It ends in the channels of the next finer level.
    """
    stages = [Stage(j, filters[j], filters[max(j - 1, 0)]) for j in range(len(filters))]
    return stages[::-1]


class PackedMaps:
    r"""Packs the maps of all stages into one tensor at the resolution of the image, and back.

    A map ``[N, f, H / 2^j, W / 2^j]`` is read as ``[N, f / 4^j, H, W]``: the same numbers in the
    same order, nothing is interpolated. The last map of the decoder comes first, so that the first
    channels, and the first entries of the flattened features, are those that the plain SegNet has
    for features. The other maps follow in the order of computation, source before target.

    Args:
        filters: Channels of every level; those of level j, and of the level above it, must be
            divisible by :math:`4^j`.

    Raises:
        ConfigError: If they are not.
    """

    def __init__(self, filters: Sequence[int]) -> None:
        self.filters = tuple(filters)
        self.encoder, self.decoder = encoder_stages(filters), decoder_stages(filters)
        maps = [(s.level, c) for s in (*self.encoder, *self.decoder) for c in (s.source, s.target)]
        for level, channels in maps:
            if channels % 4**level:
                raise ConfigError(
                    f"`filters` must give the maps of level {level} a multiple of {4**level} "
                    f"channels, to be packed at the size of the image, got {channels} of "
                    f"{list(filters)}; use the published 64, 128, 256, 512, 512."
                )
        self._maps = [maps[-1], *maps[:-1]]  # level and channels, as packed

    @property
    def num_channels(self) -> int:
        """Channels of the packed tensor."""
        return sum(channels // 4**level for level, channels in self._maps)

    @property
    def divisor(self) -> int:
        """What height and width of an image must be multiples of: every level halves them."""
        return int(2 ** len(self.filters))

    def check(self, feature_shape: Sequence[int]) -> None:
        """Refuses features that cannot be packed maps.

        Args:
            feature_shape: Channels, height and width of one example's features.

        Raises:
            ConfigError: If they cannot.
        """
        channels, *sizes = feature_shape
        if channels != self.num_channels or any(size % self.divisor for size in sizes):
            raise ConfigError(
                f"Packed maps of `filters` {list(self.filters)} have the shape "
                f"[{self.num_channels}, height, width], multiples of {self.divisor}, got features "
                f"of shape {list(feature_shape)}; use backbone=segnet_mtan with the same filters."
            )

    def pack(self, stages: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """One tensor of all maps.

        Args:
            stages: Source and target of every stage, the encoder's first.

        Returns:
            Shape ``[N, num_channels, H, W]``, a copy.
        """
        maps = list(itertools.chain.from_iterable(stages))
        maps = [maps[-1], *maps[:-1]]
        height, width = maps[0].shape[2:]
        return torch.cat([m.reshape(m.shape[0], -1, height, width) for m in maps], dim=1)

    def unpack(self, features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The maps of one tensor.

        Args:
            features: Shape ``[N, num_channels, H, W]``.

        Returns:
            Source and target of every stage, the encoder's first; views where the memory format
            allows.
        """
        num, _, height, width = features.shape
        sizes = [channels // 4**level for level, channels in self._maps]
        parts = torch.split(features, sizes, dim=1)
        maps = [
            part.reshape(num, channels, height >> level, width >> level)
            for part, (level, channels) in zip(parts, self._maps, strict=True)
        ]
        maps = [*maps[1:], maps[0]]
        return zip(maps[::2], maps[1::2], strict=True)
