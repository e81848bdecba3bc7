"""CAGrad: near the mean, as good as possible for the task that gains least."""

from typing import Any, ClassVar

from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.extras import with_extra
from rotograd_cli.methods.gramian import GramianMethod

_EPSILON = 1e-9  # of the Gramian over its trace: below it, a combination counts as zero


class CAGrad(GramianMethod):
    r"""The direction near the mean gradient that is best for the worst task.

    The backbone receives the d of :math:`\max_d\min_k\langle g_k,d\rangle` within
    :math:`\lVert d-\bar g\rVert \le c\lVert\bar g\rVert`, to about a thousandth of what the
    worst task gains over the mean: as exact as the solver's weights. Needs the extra ``cagrad``.

    Args:
        *args: As :class:`GramianMethod`.
        c: Radius of the ball, ≥ 0; 0 is the mean gradient.
        **kwargs: As :class:`GramianMethod`.

    Raises:
        ConfigError: If ``c`` is negative or the extra is missing.

    References:
        Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021,
        Algorithm 1. Computed by torchjd.
    """

    permutation_equivariant: ClassVar[bool] = False  # only as exactly as the solver is

    def __init__(self, *args: Any, c: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not c >= 0:
            raise ConfigError(f"`c` must be at least 0, got {c}.")
        from torchjd.aggregation import CAGradWeighting

        self._weighting = with_extra(
            lambda: CAGradWeighting(c=c, norm_eps=_EPSILON),
            "CAGrad",
            "cagrad",
            "cvxpy, Apache 2.0",
        )

    def weights(self, gramian: Tensor) -> Tensor:
        """Weights, 1/k and more, shape ``[k]``."""
        weights: Tensor = self._weighting(gramian)
        return weights
