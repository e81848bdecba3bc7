"""PCGrad: conflicting parts of the task gradients are projected away."""

from typing import ClassVar

from torch import Tensor

from rotograd_cli.methods.rule import GramianWeighting


class PCGrad(GramianWeighting):
    r"""Each :math:`g_i` loses, task by task in random order, its part against a :math:`g_j`.

    Where :math:`\langle g_i, g_j\rangle < 0`, :math:`g_i` is projected onto the normal plane of
    :math:`g_j`; the backbone receives the sum of the projected gradients. The orders are drawn from
    torch's generator, which the run seeds and its checkpoints hold.

    References:
        Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Algorithm 1. Computed
        by torchjd.
    """

    permutation_equivariant: ClassVar[bool] = False  # the random orders belong to positions

    def weights_of(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """Weights of the sum of the projected gradients, ≥ 1 each, shape ``[k]``."""
        from torchjd.aggregation import PCGradWeighting

        weights: Tensor = PCGradWeighting()(gramian)
        return weights
