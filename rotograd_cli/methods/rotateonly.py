"""RotateOnly: rotations that align the task gradients, magnitudes left alone."""

from collections.abc import Sequence

from torch import nn

from rotograd_cli.methods.rotate import Rotate
from rotograd_cli.methods.rotation.features import RotationPath, RotationReduction
from rotograd_cli.methods.rotation.maps import RotationMap
from rotograd_cli.methods.rotation.objective import ObjectiveName
from rotograd_cli.methods.rotation.rotations import RotationInit
from rotograd_cli.methods.rule import Rule


class RotateOnly(Rotate):
    r"""Task k sees the features rotated by its own :math:`R_k`, so that task gradients align.

    With z the features, :math:`\tilde g_k = \partial L_k/\partial (R_k z)` and
    :math:`g_k = R_k^\top \tilde g_k`, every rotation descends

    .. math:: \sum_n \lVert R_k v'_n - \tilde g_{n,k} \rVert^2, \qquad
        v' = \frac{1}{K}\sum_k \frac{\lVert \bar g\rVert}{\lVert g_k\rVert}\, g_k, \qquad
        \bar g = \frac{1}{K}\sum_k g_k,

    with :math:`\tilde g_k` and :math:`v'` constant: the mean of the unit gradients (V of Algorithm
    1) at the length of the mean gradient, as the authors' code has it. The backbone receives
    :math:`\sum_k g_k`. Tasks without a loss or with a gradient of zero take no part in the means.
    The rotations' gradient is quadratic in those of the tasks: float32 holds it where these are
    between 1e-19 and 1e19 (beyond, it is 0 or infinite; the backbone's is right).

    Args:
        backbone: Shared network; features of shape ``[batch..., *rotated, *post_shape]``.
        heads: One network per task.
        rotation_shape: Size m of the rotated part, or the shape whose product is m; None rotates
            all features of ``feature_shape``.
        rule: What the backbone receives instead of the sum, for the methods built on this one.
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

    References:
        Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022,
        section 4.2 and Algorithm 1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        rotation_shape: int | Sequence[int] | None = None,
        *,
        rule: Rule | None = None,
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
