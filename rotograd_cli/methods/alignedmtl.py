"""Aligned-MTL: the gradients made orthogonal and of equal length."""

from typing import Literal

from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.methods.rule import GramianWeighting


class AlignedMTL(GramianWeighting):
    r"""The mean of the gradients after their matrix got condition number one.

    The matrix with rows :math:`g_k` keeps its singular vectors, and its singular values are all
    replaced by one of them (:math:`\sigma`); the backbone receives the mean of the new rows.

    Args:
        scale_mode: Singular value that replaces the others: the smallest, the median or the
            root of the mean square.

    References:
        Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023,
        section 4. Computed by torchjd.
    """

    @checked
    def __init__(self, *, scale_mode: Literal["min", "median", "rmse"] = "min") -> None:
        super().__init__()
        self.scale_mode = scale_mode

    def weights_of(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """Weights of the gradients, shape ``[k]``."""
        from torchjd.aggregation import AlignedMTLWeighting

        weights: Tensor = AlignedMTLWeighting(scale_mode=self.scale_mode)(gramian)
        return weights
