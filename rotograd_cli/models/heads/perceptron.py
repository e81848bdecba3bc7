"""Linear layers on the flattened features."""

import itertools
import math
from collections.abc import Sequence

from torch import nn

from rotograd_cli.bounds import AtLeastOne, checked


class MLPHead(nn.Sequential):
    """Linear layers with ReLU in between, on the flattened features.

    Args:
        feature_shape: Shape of one example's features.
        num_outputs: Size of the prediction.
        hidden: Sizes of the hidden layers; none gives a linear head.

    Raises:
        ConfigError: If a size is not positive.
    """

    @checked
    def __init__(
        self, *, feature_shape: Sequence[int], num_outputs: AtLeastOne, hidden: Sequence[AtLeastOne]
    ) -> None:
        sizes = [math.prod(feature_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()] if len(feature_shape) > 1 else []
        for size, next_size in itertools.pairwise(sizes):
            layers += [nn.Linear(size, next_size), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-1], num_outputs))
