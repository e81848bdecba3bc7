"""Features that every task sees through its own rotation: layout, objective and options."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.rotation.axes import RotatedAxes
from rotograd_cli.methods.rotation.maps import RotationMap
from rotograd_cli.methods.rotation.objective import OBJECTIVES, ObjectiveName
from rotograd_cli.methods.rotation.rotations import RotationInit, Rotations
from rotograd_cli.methods.rotation.task_gradients import TaskGradients, rotate
from rotograd_cli.methods.rule import Statistics

RotationReduction = Literal["reference", "per_example"]
RotationPath = Literal["auto", "general", "folded"]


class RotatedFeatures:
    """What the rotation of the features is made of.

    Args:
        num_tasks: K.
        rotation_shape: Size m, or the shape whose product is m. None rotates all features of
            ``feature_shape``.
        post_shape: Trailing axes of the features that are not rotated; -1 accepts any size.
        objective: What the rotations descend: ``alignment`` of the task gradients, or the
            ``task_loss``.
        normalize_losses: Back-propagate :math:`L_k/|L_k^0|` instead of :math:`L_k` (heads
            included), and the backbone loss over its own start value. Losses of zero are no start
            values: until another one comes, the loss stays as it is.
        burn_in_period: Step (from 0) whose losses replace those of step 0 as start values.
        init: Start of the rotations: ``haar`` (the authors' code) or ``identity`` (another
            algorithm).
        rotation_map: Map from skew matrices to rotations: ``expm`` (the authors' code) or
            ``cayley`` (another algorithm).
        rebase_every: Optimiser steps after which the rotations become their own base point
            (another algorithm); None never does.
        rotation_reduction: ``reference`` sums the squares as the authors' code does: over the batch
            for plain vectors, averaged over the batch with a ``post_shape`` (with several batch
            axes: averaged over all but the last). Duplicating every example of a batch then
            changes the rotation step. ``per_example`` multiplies the sum by the batch size: the
            mean over examples of the squares of their own gradients for losses that average over
            the batch, and invariant to such duplication.
        rotation_path: How the rotations are computed, with the same numbers: ``folded`` into the
            linear layers or convolutions that all heads begin with, ``general`` for any head, or
            ``auto``: folded where it can be done and pays.
        feature_shape: Shape of the features of one example, checked at construction.

    Raises:
        ConfigError: If an option is out of range.
        ShapeError: If the rotation does not fit the features.
    """

    def __init__(
        self,
        num_tasks: int,
        rotation_shape: int | Sequence[int] | None,
        *,
        post_shape: Sequence[int] = (),
        objective: ObjectiveName = "alignment",
        normalize_losses: bool = False,
        burn_in_period: int = 20,
        init: RotationInit = "haar",
        rotation_map: RotationMap = "expm",
        rebase_every: int | None = None,
        rotation_reduction: RotationReduction = "reference",
        rotation_path: RotationPath = "auto",
        feature_shape: Sequence[int] | None = None,
    ) -> None:
        _check_choice("objective", objective, tuple(OBJECTIVES))
        _check_choice("rotation_reduction", rotation_reduction, get_args(RotationReduction))
        _check_choice("rotation_path", rotation_path, get_args(RotationPath))
        shape = None if feature_shape is None else tuple(feature_shape)
        self.axes = RotatedAxes(rotation_shape, post_shape, shape)
        self.rotations = Rotations(
            num_tasks, self.axes.size, init=init, map=rotation_map, rebase_every=rebase_every
        )
        self.normalize_losses = normalize_losses
        self.burn_in_period = burn_in_period
        self.objective = OBJECTIVES[objective]()
        self.reduction = rotation_reduction
        self.path: RotationPath = rotation_path

    def views(self, features: Tensor, R: Tensor) -> Tensor:
        """What the heads see: features through constant rotations.

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
        """As :meth:`views`, without gradient and faster."""
        z = self.axes.to_blocks(features)
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            return rotate(R.to(z.dtype), [z] * len(R)).view(len(R), *features.shape)

    def back(self, gradients: Sequence[Tensor], R: Tensor) -> Tensor:
        """Gradients at the views as gradients at the features, shape ``[K, N, d, S]``."""
        blocks = [self.axes.to_blocks(gradient) for gradient in gradients]
        return rotate(R.to(blocks[0].dtype).mT, blocks)

    def gradient(
        self, G: TaskGradients, s: Statistics, features: Tensor, num_micro_batches: int
    ) -> Tensor:
        """Gradient of the rotations' free parameters, of this process's examples.

        Args:
            G: Task gradients.
            s: Their statistics.
            features: z.
            num_micro_batches: Micro-batches of the optimiser step.

        Returns:
            Shape ``[K, m, m]``.
        """
        z = self.axes.to_blocks(features.detach())
        factor = self._reduction_factor(features.shape, num_micro_batches)
        return self.objective.gradient(G, s, z, factor)

    def _reduction_factor(self, shape: torch.Size, num_micro_batches: int) -> float:
        """Factor of the sum of squares over everything, for features of the given shape."""
        batch = list(self.axes.batch_shape(shape))
        if batch:
            # examples of the whole optimiser step, of all processes
            batch[0] = self.rotations.ranks.num_rows(batch[0]) * num_micro_batches
        if self.reduction == "per_example":
            return float(batch[0]) if batch else 1.0
        averaged = batch if self.axes.post_shape else batch[:-1]
        return 1.0 / max(1, math.prod(averaged))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"`{name}` must be {' or '.join(choices)}, got {value!r}.")
