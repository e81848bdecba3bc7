"""PCGrad: conflicting parts of the task gradients are projected away."""

from typing import Any, ClassVar

from torch import Tensor

from rotograd_cli.methods.gramian import GramianMethod


class PCGrad(GramianMethod):
    r"""Each :math:`g_i` loses, task by task in random order, its part against a :math:`g_j`.

    Where :math:`\langle g_i, g_j\rangle < 0`, :math:`g_i` is projected onto the normal plane of
    :math:`g_j`; the backbone receives the sum of the projected gradients. The orders are drawn from
    torch's generator, which the run seeds and its checkpoints hold.

    Args:
        *args: As :class:`GramianMethod`.
        **kwargs: As :class:`GramianMethod`.

    References:
        Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Algorithm 1. Computed
        by torchjd.
    """

    permutation_equivariant: ClassVar[bool] = False  # the random orders belong to positions

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from torchjd.aggregation import PCGradWeighting

        self._weighting = PCGradWeighting()

    def weights(self, gramian: Tensor) -> Tensor:
        """Weights of the sum of the projected gradients, ≥ 1 each, shape ``[k]``."""
        weights: Tensor = self._weighting(gramian)
        return weights
