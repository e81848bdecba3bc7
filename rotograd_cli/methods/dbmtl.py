"""DB-MTL: logarithms of losses, and gradients as long as the longest."""

from typing import ClassVar

from torch import Tensor

from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.logarithms import LogarithmicLosses, slopes_of_logarithms
from rotograd_cli.methods.rule import Losses, Statistics, Weighting


class DBMTL(LogarithmicLosses, Weighting):
    r"""The heads get :math:`\log L_k`, the backbone the sum of its gradients at equal length.

    With :math:`g_k = \nabla \log L_k`, the backbone gets
    :math:`\max_j\lVert g_j\rVert \sum_k g_k/\lVert g_k\rVert`. A loss that has no logarithm
    (:class:`~rotograd_cli.methods.logarithms.LogarithmicLosses`) is taken as it is. With
    micro-batches each has logarithms and lengths of its own.

    Args:
        num_tasks: K.

    References:
        Lin et al., "Dual-Balancing for Multi-Task Learning", 2023, Algorithm 1.
    """

    plain_for_one_task: ClassVar[bool] = False  # a loss is divided by its value

    def factors(self, losses: Losses) -> Tensor:
        """Return 1/L, shape ``[K]``; 0 for absent tasks."""
        return slopes_of_logarithms(losses, self.observe(losses))

    def weights(self, s: Statistics) -> Tensor:
        """Return the longest norm over each norm, shape ``[K]``; 0 for tasks without a gradient."""
        return divide_or_zero(s.norms.amax(), s.norms)
