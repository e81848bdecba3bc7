"""Rotations of the features, with any rule for the backbone's gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rotograd_cli.bounds import checked
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.parts import num_heads
from rotograd_cli.methods.rotation.features import (
    RotatedAxes,
    RotatedFeatures,
    RotationPath,
    RotationReduction,
)
from rotograd_cli.methods.rotation.maps import RotationMap
from rotograd_cli.methods.rotation.objective import OBJECTIVES, ObjectiveName
from rotograd_cli.methods.rotation.rotations import RotationInit, Rotations
from rotograd_cli.methods.rule import Rule


class Rotate(MultiTaskMethod):
    r"""Task k sees the features rotated by its own :math:`R_k`; a rule combines the gradients.

    Features have the shape ``[batch..., *rotated, *post_shape]``, where ``rotated`` has as many
    axes as ``rotation_shape``. These axes are flattened and the first m = prod(rotation_shape)
    entries are rotated, the others pass unchanged; ``post_shape`` axes (height and width, say) are
    carried along. The rule sees the gradients before the rotations,
    :math:`g_k = R_k^\top\,\partial L_k/\partial (R_k z)`.

    Args:
        backbone: Shared network.
        heads: One network per task.
        rotation_shape: Size m, or the shape whose product is m. None rotates all features of
            ``feature_shape``.
        rule: What the backbone receives; None is the sum of the task gradients.
        objective: What the rotations descend: ``alignment`` of the task gradients
            (:class:`~rotograd_cli.methods.rotateonly.RotateOnly`), or the ``task_loss`` of their
            task, as more parameters of the heads.
        post_shape: Trailing axes of the features that are not rotated; -1 accepts any size.
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

    @checked
    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        rotation_shape: int | Sequence[int] | None = None,
        *,
        rule: Rule | None,
        objective: ObjectiveName = "alignment",
        post_shape: Sequence[int] = (),
        normalize_losses: bool = False,
        burn_in_period: int = 20,
        init: RotationInit = "haar",
        rotation_map: RotationMap = "expm",
        rebase_every: int | None = None,
        rotation_reduction: RotationReduction = "reference",
        rotation_path: RotationPath = "auto",
        feature_shape: Sequence[int] | None = None,
    ) -> None:
        self.axes = RotatedAxes(rotation_shape, post_shape, feature_shape)
        rotation = RotatedFeatures(
            self.axes,
            Rotations(
                num_heads(heads),
                self.axes.size,
                init=init,
                rotation_map=rotation_map,
                rebase_every=rebase_every,
            ),
            OBJECTIVES[objective],
            rotation_reduction,
            rotation_path,
            normalize_losses,
            burn_in_period,
        )
        super().__init__(backbone, heads, rule, rotation=rotation, feature_shape=feature_shape)

    @property
    def rotation_shape(self) -> torch.Size:
        """Shape of what is rotated."""
        return self.axes.rotation_shape

    @property
    def rotation_size(self) -> int:
        """Size m of the rotations."""
        return self.axes.size

    @property
    def post_shape(self) -> torch.Size:
        """Trailing axes of the features that are not rotated."""
        return self.axes.post_shape

    @property
    def rotation(self) -> Tensor:
        """Rotation matrices, shape ``[K, m, m]``, differentiable; assign rotations to set them."""
        return self.rotations.matrices

    @rotation.setter
    def rotation(self, rotations: Tensor | Sequence[Tensor]) -> None:
        self.rotations.assign(rotations)
