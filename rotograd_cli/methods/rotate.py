"""Rotations of the features, with any rule for the backbone's gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rotation.features import (
    RotatedFeatures,
    RotationPath,
    RotationReduction,
)
from rotograd_cli.methods.rotation.maps import RotationMap
from rotograd_cli.methods.rotation.objective import ObjectiveName
from rotograd_cli.methods.rotation.rotations import RotationInit
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
        init: See :class:`~rotograd_cli.methods.rotation.features.RotatedFeatures`, as for the
            other options.
        rotation_map: ``expm`` or ``cayley``.
        rebase_every: Optimiser steps between new bases; None keeps them.
        rotation_reduction: ``reference`` or ``per_example``.
        rotation_path: ``auto``, ``general`` or ``folded``.
        feature_shape: Shape of the features of one example, checked at construction.

    Raises:
        ConfigError: If an option is out of range.
        ShapeError: If the rotation does not fit the features.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        rotation_shape: int | Sequence[int] | None,
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
        rotation = RotatedFeatures(
            len(heads),
            rotation_shape,
            post_shape=post_shape,
            objective=objective,
            normalize_losses=normalize_losses,
            burn_in_period=burn_in_period,
            init=init,
            rotation_map=rotation_map,
            rebase_every=rebase_every,
            rotation_reduction=rotation_reduction,
            rotation_path=rotation_path,
            feature_shape=feature_shape,
        )
        super().__init__(backbone, heads, rule, rotation=rotation, feature_shape=feature_shape)
        self.axes = rotation.axes

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
