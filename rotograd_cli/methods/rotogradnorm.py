"""RotoGradNorm: rotations with GradNorm's task weights."""

from collections.abc import Sequence

from torch import Tensor, nn

from rotograd_cli.methods.gradnorm import GradNormWeights
from rotograd_cli.methods.parts import num_heads
from rotograd_cli.methods.rotateonly import RotateOnly
from rotograd_cli.methods.rotation.features import RotationPath, RotationReduction
from rotograd_cli.methods.rotation.maps import RotationMap
from rotograd_cli.methods.rotation.objective import ObjectiveName
from rotograd_cli.methods.rotation.rotations import RotationInit


class RotoGradNorm(RotateOnly):
    r"""RotateOnly with learned task weights; the backbone receives :math:`\sum_k w_k g_k`.

    The weights are those of :class:`~rotograd_cli.methods.gradnorm.GradNormWeights`.

    Args:
        backbone: Shared network; features of shape ``[batch..., *rotated, *post_shape]``.
        heads: One network per task.
        rotation_shape: Size m of the rotated part, or the shape whose product is m; None rotates
            all features of ``feature_shape``.
        alpha: Exponent of the relative inverse training rate, ≥ 0; 0 asks for equal norms.
        objective: What the rotations descend: ``alignment``, or the ``task_loss`` of their task.
        post_shape: Trailing axes of the features that are not rotated, e.g. height and width; -1
            accepts any size.
        normalize_losses: Train backbone and heads by :math:`L_k/|L_k^0|` instead of :math:`L_k`.
        burn_in_period: Step (from 0) whose losses replace those of step 0 as start values.
        init: Start of the rotations: ``haar`` or ``identity``.
        rotation_map: ``expm`` or ``cayley``.
        rebase_every: Optimiser steps after which the rotations become their own base point; None
            never does.
        rotation_reduction: ``reference`` or ``per_example``.
        rotation_path: ``auto``, ``general`` or ``folded``: same numbers, other speed.
        feature_shape: Shape of the features of one example, checked at construction.

    More on each option: :class:`~rotograd_cli.methods.rotate.Rotate`.

    Raises:
        ConfigError: If ``alpha`` is negative or not finite.

    References:
        Javaloy and Valera, ICLR 2022; Chen et al., "GradNorm: Gradient Normalization for Adaptive
        Loss Balancing in Deep Multitask Networks", ICML 2018, equations 1 and 2.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        rotation_shape: int | Sequence[int] | None = None,
        *,
        alpha: float = 0.0,
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
        rule = GradNormWeights(
            num_tasks=num_heads(heads), alpha=alpha, burn_in_period=burn_in_period
        )
        super().__init__(
            backbone,
            heads,
            rotation_shape,
            rule=rule,
            objective=objective,
            post_shape=post_shape,
            normalize_losses=normalize_losses,
            burn_in_period=burn_in_period,
            init=init,
            rotation_map=rotation_map,
            rebase_every=rebase_every,
            rotation_reduction=rotation_reduction,
            rotation_path=rotation_path,
            feature_shape=feature_shape,
        )

    @property
    def weight(self) -> Tensor:
        """Task weights, positive with sum K, shape ``[K]``, differentiable in the parameters."""
        assert isinstance(self.rule, GradNormWeights)
        return self.rule.weight
