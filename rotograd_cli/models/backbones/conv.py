"""Plain convolutions that keep the image: features for dense tasks."""

from collections.abc import Sequence

from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.models.layers import require_images


class ConvNet(nn.Module):
    r"""3×3 convolutions with padding 1, each followed by ReLU; the features are a map.

    A layer of stride s turns height H into :math:`\lceil H / s \rceil`, and the width likewise.

    Args:
        input_shape: Channels, height and width of an image.
        channels: Output channels of every layer.
        strides: Stride of every layer.

    Raises:
        ConfigError: If the input is not an image, or a layer has no positive channels and stride.
    """

    def __init__(
        self, *, input_shape: Sequence[int], channels: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        require_images("ConvNet", input_shape, 1, "backbone=mlp for other inputs")
        if not 0 < len(channels) == len(strides) or min(*channels, *strides) < 1:
            raise ConfigError(
                "`channels` and `strides` must hold one positive number per layer each, got "
                f"{list(channels)} and {list(strides)}; give both the same length."
            )
        layers: list[nn.Module] = []
        sizes = [input_shape[0], *channels]
        for size, next_size, stride in zip(sizes, channels, strides, strict=False):
            layers += [nn.Conv2d(size, next_size, 3, stride=stride, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[N, channels[-1], H', W']`` of images ``[N, C, H, W]``, not negative."""
        features: Tensor = self.layers(x)
        return features
