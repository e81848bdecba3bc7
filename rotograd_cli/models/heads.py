"""Task heads. A head is built with ``feature_shape``, ``num_outputs`` and its own options.

It maps features ``[N, *feature_shape]`` to predictions ``[N, num_outputs]``, or to maps ``[N,
num_outputs, ...]`` for dense tasks, and refuses a ``feature_shape`` that it cannot take.
"""

import itertools
import math
from collections.abc import Sequence

from torch import nn

from rotograd_cli.errors import ConfigError


class MLPHead(nn.Sequential):
    """Linear layers with ReLU in between, on the flattened features.

    Args:
        feature_shape: Shape of one example's features.
        num_outputs: Size of the prediction.
        hidden: Sizes of the hidden layers; none gives a linear head.

    Raises:
        ConfigError: If a size is not positive.
    """

    def __init__(
        self, *, feature_shape: Sequence[int], num_outputs: int, hidden: Sequence[int]
    ) -> None:
        if min([*hidden, num_outputs]) < 1:
            raise ConfigError(f"`hidden` must hold positive sizes, got {list(hidden)}.")
        sizes = [math.prod(feature_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()] if len(feature_shape) > 1 else []
        for size, next_size in itertools.pairwise(sizes):
            layers += [nn.Linear(size, next_size), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-1], num_outputs))


class ConvHead(nn.Sequential):
    """A 3×3 convolution that keeps the channels, then a 1×1 convolution: one output per pixel.

    There is no activation in between, as in the published networks for NYUv2. The output for
    feature maps ``[N, C, H, W]`` is ``[N, num_outputs, H, W]``.

    Args:
        feature_shape: Channels, height and width of one example's features.
        num_outputs: Channels of the prediction.

    Raises:
        ConfigError: If the features are not a map, or there is no output.

    References:
        Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019.
    """

    def __init__(self, *, feature_shape: Sequence[int], num_outputs: int) -> None:
        if len(feature_shape) != 3:
            raise ConfigError(
                "ConvHead needs feature maps, [channels, height, width], got features of shape "
                f"{list(feature_shape)}; use a backbone that returns maps (backbone=conv), or "
                "head=mlp."
            )
        if num_outputs < 1:
            raise ConfigError(f"`num_outputs` must be at least 1, got {num_outputs}.")
        channels = feature_shape[0]
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, num_outputs, 1)
        )
