"""The reduced LeNet of MultiMNIST."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.models.layers import require_images


class LeNet(nn.Module):
    """Two 5×5 convolutions (10, 20 channels) with 2×2 max-pooling and ReLU, and a linear layer.

    Args:
        input_shape: Channels, height and width of an image; at least 16 pixels each way.
        num_features: Size d of the features.
        channels_last: Lay images out with the channels last: the same function, which a CPU
            computes in little more than half the time; results differ by rounding.

    Raises:
        ConfigError: If the input is not an image or too small, or there are no features.

    References:
        Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018.
    """

    @checked
    def __init__(
        self, *, input_shape: Sequence[int], num_features: AtLeastOne, channels_last: bool = False
    ) -> None:
        super().__init__()
        require_images("LeNet", input_shape, 16, "backbone=mlp for other inputs")
        self.convolutions = nn.Sequential(
            nn.Conv2d(input_shape[0], 10, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(10, 20, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            size = self.convolutions(torch.zeros(1, *input_shape)).shape[1]
        self.linear = nn.Linear(size, num_features)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.convolutions.to(memory_format=self.memory_format)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[N, num_features]`` of images ``[N, C, H, W]``, not negative."""
        x = x.contiguous(memory_format=self.memory_format)
        features: Tensor = self.linear(self.convolutions(x)).relu()
        return features
