"""GLS: the geometric mean of the losses."""

import torch
from torch import Tensor

from rotograd_cli.methods.logarithms import LogarithmicLosses
from rotograd_cli.methods.rule import Losses, LossWeighting


class GeometricLoss(LogarithmicLosses, LossWeighting):
    r"""Everything is trained by :math:`M = \bigl(\prod_k L_k\bigr)^{1/K}`, the geometric mean.

    The factor of a loss is :math:`M/(K L_k)`. The mean is over the tasks that have a loss in the
    batch. A loss that has no logarithm
    (:class:`~rotograd_cli.methods.logarithms.LogarithmicLosses`) would make the mean zero or
    undefined: it is left out of it, and trained with the factor 1/K. With micro-batches each has a
    mean of its own.

    Args:
        num_tasks: Number K of tasks.

    References:
        Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy
        for Multi-Task Learning", CVPR Workshops 2019, equation 3.
    """

    def factors(self, losses: Losses) -> Tensor:
        """Return M/(K L), shape ``[K]``; 0 for absent tasks."""
        usable = self.observe(losses)
        logarithms = torch.where(usable, losses.values, 1).log()
        mean = logarithms.sum() / usable.sum().clamp_min(1)
        relative = torch.where(usable, (mean - logarithms).exp(), losses.present)
        num = torch.where(usable, usable.sum(), losses.present.sum())
        return relative / num.clamp_min(1)
