"""UPGrad: every gradient is projected so that it harms no task."""

from typing import Any

from torch import Tensor

from rotograd_cli.methods.extras import with_extra
from rotograd_cli.methods.gramian import GramianMethod


class UPGrad(GramianMethod):
    r"""The mean of the gradients, each projected onto the cone of directions that harm no task.

    The cone is :math:`\{d : \langle g_k, d\rangle \ge 0\ \forall k\}`, so that the result conflicts
    with no task. Needs the extra ``upgrad``.

    Args:
        *args: As :class:`GramianMethod`.
        **kwargs: As :class:`GramianMethod`.

    Raises:
        ConfigError: If the extra is missing.

    References:
        Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024. Computed by
        torchjd.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from torchjd.aggregation import UPGradWeighting

        self._weighting = with_extra(
            UPGradWeighting, "UPGrad", "upgrad", "quadprog, GPL 2 or later"
        )

    def weights(self, gramian: Tensor) -> Tensor:
        """Weights ≥ 0 of the mean of the projections, shape ``[k]``."""
        weights: Tensor = self._weighting(gramian)
        return weights
