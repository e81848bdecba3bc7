"""Which entries of the features are rotated."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError, ShapeError


class RotatedAxes:
    """Layout of features ``[batch..., *rotated, *post_shape]``.

    The ``rotated`` axes, as many as ``rotation_shape`` has, are flattened and the first m =
    prod(rotation_shape) entries are rotated; ``post_shape`` axes (height and width, say) are
    carried along.

    Args:
        rotation_shape: Size m, or the shape whose product is m; None takes all of
            ``feature_shape``.
        post_shape: Trailing axes of the features that are not rotated; -1 accepts any size.
        feature_shape: Shape of one example's features, checked if given.

    Raises:
        ConfigError: If the size can be taken from nowhere.
        ShapeError: If shapes do not fit.
    """

    def __init__(
        self,
        rotation_shape: int | Sequence[int] | None,
        post_shape: Sequence[int],
        feature_shape: Sequence[int] | None,
    ) -> None:
        self.post_shape = torch.Size(post_shape)
        self.rotation_shape = _rotation_shape(rotation_shape, self.post_shape, feature_shape)
        self.size = math.prod(self.rotation_shape)
        if feature_shape is not None:
            self.check(feature_shape)

    def to_blocks(self, features: Tensor) -> Tensor:
        """View features as ``[N, d, S]``: batch, rotated and carried axes flattened."""
        num_batch_axes = features.dim() - len(self.rotation_shape) - len(self.post_shape)
        batch = features.shape[:num_batch_axes]
        post = features.shape[features.dim() - len(self.post_shape) :]
        rotated = features.shape[num_batch_axes : features.dim() - len(self.post_shape)]
        return features.reshape(math.prod(batch), math.prod(rotated), math.prod(post))

    def batch_shape(self, shape: Sequence[int]) -> torch.Size:
        """Return the batch axes of features of the given shape."""
        return torch.Size(shape[: len(shape) - len(self.rotation_shape) - len(self.post_shape)])

    def check(self, shape: Sequence[int]) -> None:
        """Refuse features whose trailing axes do not fit.

        Raises:
            ShapeError: If they do not.
        """
        end = len(shape) - len(self.post_shape)
        start = end - len(self.rotation_shape)
        rotated = tuple(shape[max(0, start) : end])
        expected = zip(self.post_shape, shape[end:], strict=False)
        if start < 0 or any(size not in (-1, actual) for size, actual in expected):
            raise ShapeError(
                "Features must have shape [batch..., *rotation_shape, *post_shape] with "
                f"rotation_shape {tuple(self.rotation_shape)} and post_shape "
                f"{tuple(self.post_shape)}, got {list(shape)}; set both to the trailing axes of "
                "the backbone's output."
            )
        if math.prod(rotated) < self.size:
            raise ShapeError(
                f"`rotation_shape` {tuple(self.rotation_shape)} needs {self.size} "
                f"features, got {rotated} in features of shape {tuple(shape)}; choose a size of "
                f"at most {math.prod(rotated)}."
            )


def _rotation_shape(
    rotation_shape: int | Sequence[int] | None,
    post_shape: torch.Size,
    feature_shape: Sequence[int] | None,
) -> torch.Size:
    if rotation_shape is None:
        if feature_shape is None:
            raise ConfigError(
                "`rotation_shape` is needed where `feature_shape` is not given; pass an int."
            )
        rotation_shape = feature_shape[: len(feature_shape) - len(post_shape)]
    shape = torch.Size((rotation_shape,) if isinstance(rotation_shape, int) else rotation_shape)
    if len(shape) == 0 or min(shape) < 1:
        raise ShapeError(
            f"`rotation_shape` must be a positive size or a shape of them, got {rotation_shape!r}."
        )
    return shape
