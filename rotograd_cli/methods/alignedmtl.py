"""Aligned-MTL: the gradients made orthogonal and of equal length."""

from typing import Any, Literal

from torch import Tensor

from rotograd_cli.methods.gramian import GramianMethod


class AlignedMTL(GramianMethod):
    r"""The mean of the gradients after their matrix got condition number one.

    The matrix with rows :math:`g_k` keeps its singular vectors, and its singular values are all
    replaced by one of them (:math:`\sigma`); the backbone receives the mean of the new rows.

    Args:
        *args: As :class:`GramianMethod`.
        scale_mode: Singular value that replaces the others: the smallest, the median or the
            root of the mean square.
        **kwargs: As :class:`GramianMethod`.

    References:
        Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023,
        section 4. Computed by torchjd.
    """

    def __init__(
        self, *args: Any, scale_mode: Literal["min", "median", "rmse"], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        from torchjd.aggregation import AlignedMTLWeighting

        self._weighting = AlignedMTLWeighting(scale_mode=scale_mode)

    def weights(self, gramian: Tensor) -> Tensor:
        """Weights of the gradients, shape ``[k]``."""
        weights: Tensor = self._weighting(gramian)
        return weights
