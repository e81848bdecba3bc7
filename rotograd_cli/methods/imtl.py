"""IMTL: IMTL-L's scales for all losses, IMTL-G for the shared network."""

from rotograd_cli.methods.imtlg import IMTLG
from rotograd_cli.methods.imtll import LearnedScales


class IMTL(LearnedScales, IMTLG):
    r"""The heads get :math:`e^{s_k} L_k`, the backbone IMTL-G's combination of their gradients.

    The scales are those of :class:`~rotograd_cli.methods.imtll.IMTLL`, the combination that of
    :class:`~rotograd_cli.methods.imtlg.IMTLG`.

    Args:
        num_tasks: Number K of tasks.

    References:
        Liu et al., "Towards Impartial Multi-Task Learning", ICLR 2021, Algorithm 1.
    """
