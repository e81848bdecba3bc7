"""IMTL-G with rotations that the task losses train: the paper's control."""

from collections.abc import Sequence

from torch import nn

from rotograd_cli.methods.imtlg import IMTLG
from rotograd_cli.methods.rotateonly import RotateOnly
from rotograd_cli.methods.rotation.features import RotationPath, RotationReduction
from rotograd_cli.methods.rotation.maps import RotationMap
from rotograd_cli.methods.rotation.rotations import RotationInit


class IMTLGRotations(RotateOnly):
    r"""RotateOnly's network, with :math:`R_k` descending the task loss :math:`L_k` itself.

    The backbone receives IMTL-G's combination of the gradients :math:`g_k` before the rotations. So
    the rotations are nothing but more parameters of the heads: what RotoGrad gains beyond this is
    not for the sake of the parameters. The options that concern the rotations' own loss
    (``rotation_reduction``) have no meaning here.

    Args:
        backbone: Shared network; features of shape ``[batch..., *rotated, *post_shape]``.
        heads: One network per task.
        rotation_shape: Size m of the rotated part, or the shape whose product is m; None rotates
            all features of ``feature_shape``.
        post_shape: Trailing axes of the features that are not rotated, e.g. height and width; -1
            accepts any size.
        normalize_losses: Train backbone and heads by :math:`L_k/|L_k^0|` instead of :math:`L_k`.
        burn_in_period: Step (from 0) whose losses replace those of step 0 as start values.
        init: Start of the rotations: ``haar`` or ``identity``.
        rotation_map: ``expm`` or ``cayley``.
        rebase_every: Optimiser steps after which the rotations become their own base point; None
            never does.
        rotation_reduction: No effect.
        rotation_path: ``auto``, ``general`` or ``folded``: same numbers, other speed.
        feature_shape: Shape of the features of one example, checked at construction.

    More on each option: :class:`~rotograd_cli.methods.rotate.Rotate`.

    References:
        Javaloy and Valera, the row "IMTL-G + R_k" of the CIFAR10 table; Liu et al., "Towards
        Impartial Multi-Task Learning", ICLR 2021.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        rotation_shape: int | Sequence[int] | None = None,
        *,
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
            rule=IMTLG(),
            objective="task_loss",
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
