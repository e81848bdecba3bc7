"""Features that every task sees through its own rotation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.methods.rotation.holding import is_traced
from rotograd_cli.methods.rotation.objective import Objective, alignment
from rotograd_cli.methods.rotation.rotations import Rotations
from rotograd_cli.methods.rotation.task_gradients import TaskGradients, rotate
from rotograd_cli.methods.statistics import Statistics

RotationReduction = Literal["reference", "per_example"]
RotationPath = Literal["auto", "general", "folded"]


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
        if rotation_shape is None:
            if feature_shape is None:
                raise ConfigError(
                    "`rotation_shape` is needed where `feature_shape` is not given; pass an int."
                )
            rotation_shape = feature_shape[: len(feature_shape) - len(self.post_shape)]
        shape = [rotation_shape] if isinstance(rotation_shape, int) else rotation_shape
        if len(shape) == 0 or min(shape) < 1:
            raise ShapeError(
                "`rotation_shape` must be a positive size or a shape of them, got "
                f"{rotation_shape!r}."
            )
        self.rotation_shape = torch.Size(shape)
        self.size = math.prod(self.rotation_shape)
        if feature_shape is not None:
            self.check(feature_shape)

    def to_blocks(self, features: Tensor) -> Tensor:
        """View features as ``[N, d, S]``: batch, rotated and carried axes flattened."""
        return features.reshape([math.prod(axes) for axes in self._split(features.shape)])

    def batch_shape(self, shape: Sequence[int]) -> torch.Size:
        """Return the batch axes of features of the given shape."""
        return torch.Size(self._split(shape)[0])

    def check(self, shape: Sequence[int]) -> None:
        """Refuse features whose trailing axes do not fit.

        Raises:
            ShapeError: If they do not.
        """
        _, rotated, post = self._split(shape)
        num_missing = len(self.rotation_shape) + len(self.post_shape) - len(shape)
        expected = zip(self.post_shape, post, strict=False)
        if num_missing > 0 or any(size not in (-1, actual) for size, actual in expected):
            raise ShapeError(
                "Features must have shape [batch..., *rotation_shape, *post_shape] with "
                f"rotation_shape {tuple(self.rotation_shape)} and post_shape "
                f"{tuple(self.post_shape)}, got {list(shape)}; set both to the trailing axes of "
                "the backbone's output."
            )
        if math.prod(rotated) < self.size:
            raise ShapeError(
                f"`rotation_shape` {tuple(self.rotation_shape)} needs {self.size} features, got "
                f"{tuple(rotated)} in features of shape {tuple(shape)}; choose a size of at most "
                f"{math.prod(rotated)}."
            )

    def _split(self, shape: Sequence[int]) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Return the batch, rotated and carried axes of features of the given shape."""
        end = len(shape) - len(self.post_shape)
        start = max(0, end - len(self.rotation_shape))
        return shape[:start], shape[start:end], shape[end:]


@dataclass
class RotatedFeatures:
    """What the rotation of the features is made of.

    For the options see :class:`~rotograd_cli.methods.rotate.Rotate`.
    """

    axes: RotatedAxes
    """Layout of the features."""
    rotations: Rotations
    """The K rotations."""
    objective: Objective
    """What the rotations descend."""
    reduction: RotationReduction
    path: RotationPath
    normalize_losses: bool
    burn_in_period: int

    def views(self, features: Tensor, R: Tensor) -> Tensor:
        """Return what the heads see: features through constant rotations.

        Args:
            features: Shape ``[batch..., *rotated, *post_shape]``.
            R: Rotations, shape ``[k, m, m]``.

        Returns:
            Shape ``[k, *features.shape]``; differentiable in the features where gradients are
            enabled, computed faster where they are not.
        """
        z = self.axes.to_blocks(features)
        if is_traced() or torch.is_grad_enabled():
            m = self.axes.size
            rest = z[:, m:].expand(len(R), -1, -1, -1)
            rotated = torch.cat((R.to(z.dtype).unsqueeze(1) @ z[:, :m], rest), dim=2)
        else:
            with torch.autocast(z.device.type, enabled=False):
                rotated = rotate(R.to(z.dtype), [z] * len(R))
        return rotated.view(len(R), *features.shape)

    def turned(self, gradients: Sequence[Tensor], R: Tensor) -> Tensor:
        r"""Return gradients of the features' shape times matrices, shape ``[K, N, d, S]``.

        With :math:`R^\top`, gradients at the views become those at the features.
        """
        blocks = [self.axes.to_blocks(gradient) for gradient in gradients]
        return rotate(R.to(blocks[0].dtype), blocks)

    def gradient(
        self, G: TaskGradients, s: Statistics, features: Tensor, num_micro_batches: int
    ) -> Tensor:
        """Return the gradient of the rotations' free parameters, of this process's examples.

        Args:
            G: Task gradients.
            s: Their statistics.
            features: z.
            num_micro_batches: Micro-batches of the optimiser step.

        Returns:
            Shape ``[K, m (m - 1) / 2]``.
        """
        z = self.axes.to_blocks(features.detach())
        return self.objective(G, s, z, self.factor(features.shape, num_micro_batches))

    @property
    def aligns(self) -> bool:
        """Whether the rotations descend the alignment of the task gradients."""
        return self.objective is alignment

    def factor(self, shape: torch.Size, num_micro_batches: int) -> float:
        """Return the factor of the sum of squares, for features of the given shape."""
        batch = list(self.axes.batch_shape(shape))
        if batch:
            # examples of the whole optimiser step, of all processes
            batch[0] = self.rotations.ranks.num_rows(batch[0]) * num_micro_batches
        if self.reduction == "per_example":
            return float(batch[0]) if batch else 1.0
        averaged = batch if self.axes.post_shape else batch[:-1]
        return 1.0 / max(1, math.prod(averaged))
