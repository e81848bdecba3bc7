"""IMTL-G with rotations that the task losses train: the paper's control."""

from typing import Any

from rotograd_cli.methods.imtlg import IMTLG
from rotograd_cli.methods.rotateonly import RotateOnly


class IMTLGRotations(RotateOnly):
    r"""RotateOnly's network, with :math:`R_k` descending the task loss :math:`L_k` itself.

    The backbone receives IMTL-G's combination of the gradients :math:`g_k` before the rotations. So
    the rotations are nothing but more parameters of the heads: what RotoGrad gains beyond this is
    not for the sake of the parameters. The options that concern the rotations' own loss
    (``rotation_reduction``) have no meaning here.

    Args:
        *args: As :class:`RotateOnly`.
        **options: As :class:`RotateOnly`.

    References:
        Javaloy and Valera, the row "IMTL-G + R_k" of the CIFAR10 table; Liu et al., "Towards
        Impartial Multi-Task Learning", ICLR 2021.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, rule=IMTLG(), objective="task_loss", **options)
