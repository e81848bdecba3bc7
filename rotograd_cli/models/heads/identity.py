"""A head without layers."""

from collections.abc import Sequence

from torch import nn

from rotograd_cli.errors import ConfigError


class IdentityHead(nn.Identity):
    """Returns the features, rotated where the method rotates, as the prediction.

    Args:
        feature_shape: Shape of one example's features.
        num_outputs: Size of the prediction; that of the features.

    Raises:
        ConfigError: If the features are no vector of that size.
    """

    def __init__(self, *, feature_shape: Sequence[int], num_outputs: int) -> None:
        if tuple(feature_shape) != (num_outputs,):
            raise ConfigError(
                f"IdentityHead needs features of shape [{num_outputs}], the size of the "
                f"prediction, got {list(feature_shape)}; set backbone.num_features={num_outputs}, "
                "or use head=linear."
            )
        super().__init__()
