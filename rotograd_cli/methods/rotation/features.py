"""Features that every task sees through its own rotation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rotograd_cli.methods.rotation.axes import RotatedAxes
from rotograd_cli.methods.rotation.objective import Objective
from rotograd_cli.methods.rotation.rotations import Rotations
from rotograd_cli.methods.rotation.task_gradients import TaskGradients, rotate
from rotograd_cli.methods.rule import Statistics

RotationReduction = Literal["reference", "per_example"]
RotationPath = Literal["auto", "general", "folded"]


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
            Shape ``[k, *features.shape]``; differentiable in the features.
        """
        z = self.axes.to_blocks(features)
        m = self.axes.size
        rest = z[:, m:].expand(len(R), -1, -1, -1)
        rotated = torch.cat((R.to(z.dtype).unsqueeze(1) @ z[:, :m], rest), dim=2)
        return rotated.view(len(R), *features.shape)

    def constant_views(self, features: Tensor, R: Tensor) -> Tensor:
        """Return the same as :meth:`views`, without gradient and faster."""
        z = self.axes.to_blocks(features)
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            return rotate(R.to(z.dtype), [z] * len(R)).view(len(R), *features.shape)

    def back(self, gradients: Sequence[Tensor], R: Tensor) -> Tensor:
        """Turn gradients at the views into gradients at the features, shape ``[K, N, d, S]``."""
        blocks = [self.axes.to_blocks(gradient) for gradient in gradients]
        return rotate(R.to(blocks[0].dtype).mT, blocks)

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
            Shape ``[K, m, m]``.
        """
        z = self.axes.to_blocks(features.detach())
        return self.objective(G, s, z, self._factor(features.shape, num_micro_batches))

    def _factor(self, shape: torch.Size, num_micro_batches: int) -> float:
        """Return the factor of the sum of squares, for features of the given shape."""
        batch = list(self.axes.batch_shape(shape))
        if batch:
            # examples of the whole optimiser step, of all processes
            batch[0] = self.rotations.ranks.num_rows(batch[0]) * num_micro_batches
        if self.reduction == "per_example":
            return float(batch[0]) if batch else 1.0
        averaged = batch if self.axes.post_shape else batch[:-1]
        return 1.0 / max(1, math.prod(averaged))
