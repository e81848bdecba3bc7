"""The convolutional network of the public CelebA settings."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.models.layers import conv_unit, require_images, require_two_examples


class CelebAConv(nn.Module):
    """Nine layers: seven 3×3 convolutions and two linear layers, all with BatchNorm and ReLU.

    The first group has one convolution, the others two each; 2×2 maximum pooling stands between
    the groups, and the last map is averaged. No layer has a bias, and weights start as torch's do.
    With the published sizes it has 5,176,640 parameters for colour images.

    RotoGrad's paper describes its convolutional CelebA backbone by the size of its features alone
    (d = 512). This is the network of FAMO's public code, which has that size; that it is the same
    network is not known.

    Training takes two examples or more, for the variance of the last layers' BatchNorm.

    Args:
        input_shape: Channels, height and width of an image; at least 8 pixels each way.
        channels: Output channels of the groups of convolutions.
        num_features: Size d of both linear layers, and of the features.

    Raises:
        ConfigError: If the input is not an image or too small, or a size is not positive.

    References:
        Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023; the authors'
        experiments/celeba/models.py.
    """

    def __init__(
        self, *, input_shape: Sequence[int], channels: Sequence[int], num_features: int
    ) -> None:
        super().__init__()
        # three poolings
        require_images("CelebAConv", input_shape, 8, "backbone=mlp for other inputs")
        if len(channels) != 4 or min([*channels, num_features]) < 1:
            raise ConfigError(
                "`channels` must hold four positive numbers and `num_features` be positive, got "
                f"{list(channels)} and {num_features}; use the published 64, 128, 256, 512 and 512."
            )
        layers: list[nn.Module] = [conv_unit(input_shape[0], channels[0], bias=False)]
        for width, next_width in itertools.pairwise(channels):
            layers += [
                nn.MaxPool2d(2),
                conv_unit(width, next_width, bias=False),
                conv_unit(next_width, next_width, bias=False),
            ]
        self.convolutions = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Sequential(
            _linear_unit(channels[-1], num_features), _linear_unit(num_features, num_features)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[N, num_features]`` of images ``[N, C, H, W]``, not negative.

        Raises:
            ShapeError: If there is one example in training mode.
        """
        if self.training:
            require_two_examples("CelebAConv", x)
        features: Tensor = self.linear(self.convolutions(x))
        return features


def _linear_unit(num_inputs: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_inputs, num_outputs, bias=False), nn.BatchNorm1d(num_outputs), nn.ReLU()
    )
