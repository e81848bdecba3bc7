"""Fully connected backbone."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from rotograd_cli.bounds import AtLeastOne, checked


class MLP(nn.Module):
    """Linear layers with ReLU, on the flattened input.

    Args:
        input_shape: Shape of one example, any number of axes.
        hidden: Sizes of the hidden layers.
        num_features: Size d of the features.

    Raises:
        ConfigError: If a size is not positive.
    """

    @checked
    def __init__(
        self, *, input_shape: Sequence[int], hidden: Sequence[AtLeastOne], num_features: AtLeastOne
    ) -> None:
        super().__init__()
        sizes = [math.prod(input_shape), *hidden, num_features]
        layers: list[nn.Module] = [nn.Flatten()]
        for size, next_size in itertools.pairwise(sizes):
            layers += [nn.Linear(size, next_size), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[N, num_features]`` of inputs ``[N, *input_shape]``, not negative."""
        features: Tensor = self.layers(x)
        return features
