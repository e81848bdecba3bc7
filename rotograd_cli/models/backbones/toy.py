"""The toy problems' network."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from rotograd_cli.bounds import AtLeastOne, checked


class ToyNetwork(nn.Module):
    """Two linear layers with a ReLU between them, on the flattened input; features of any sign.

    Args:
        input_shape: Shape of one example, any number of axes.
        hidden: Size of the hidden layer.
        num_features: Size d of the features.

    Raises:
        ConfigError: If a size is not positive.

    References:
        The authors' example/toy.yml and example/model.py.
    """

    @checked
    def __init__(
        self, *, input_shape: Sequence[int], hidden: AtLeastOne, num_features: AtLeastOne
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(input_shape), hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_features),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[N, num_features]`` of inputs ``[N, *input_shape]``."""
        features: Tensor = self.layers(x)
        return features
