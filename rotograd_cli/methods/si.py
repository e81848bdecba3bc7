"""Scale-invariant scalarisation: the sum of the logarithms of the losses."""

from typing import ClassVar

from torch import Tensor

from rotograd_cli.methods.logarithms import LogarithmicLosses, slopes_of_logarithms
from rotograd_cli.methods.rule import Losses, LossWeighting


class ScaleInvariant(LogarithmicLosses, LossWeighting):
    r"""Everything is trained by :math:`\sum_k \log L_k`, whatever the units of the losses.

    The factor of a loss is :math:`1/L_k`. A loss that has no logarithm
    (:class:`~rotograd_cli.methods.logarithms.LogarithmicLosses`) is trained as it is, with the
    factor 1. With micro-batches each has factors of its own.

    Args:
        num_tasks: Number K of tasks.

    References:
        The baseline "SI" of Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022,
        section 5.
    """

    plain_for_one_task: ClassVar[bool] = False  # a loss is divided by its value

    def factors(self, losses: Losses) -> Tensor:
        """Return 1/L, shape ``[K]``; 0 for absent tasks."""
        return slopes_of_logarithms(losses, self.observe(losses))
