"""FairGrad: alpha-fair gains."""

from typing import Any, ClassVar

from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.gramian import GramianMethod


class FairGrad(GramianMethod):
    r"""Weights :math:`w>0` with :math:`G w = w^{-1/\alpha}`, G the Gramian.

    These maximise the :math:`\alpha`-fair utility of the tasks' gains
    :math:`\langle g_k, d\rangle`. G is in units of the largest squared norm, so that the step
    scales with the gradients as that of every other method. Tasks whose gradient is zero get no
    weight.

    Args:
        *args: As :class:`GramianMethod`.
        alpha: Fairness ≥ 0: 0 is the mean gradient, 1 proportional fairness (Nash), larger
            values more even gains.
        **kwargs: As :class:`GramianMethod`.

    Raises:
        ConfigError: If ``alpha`` is negative.

    References:
        Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, equation 4.
        Computed by torchjd.
    """

    permutation_equivariant: ClassVar[bool] = False  # only as exactly as the solver is

    def __init__(self, *args: Any, alpha: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not alpha >= 0:
            raise ConfigError(f"`alpha` must be at least 0, got {alpha}.")
        from torchjd.aggregation import FairGradWeighting

        self._weighting = FairGradWeighting(alpha=alpha)

    def weights(self, gramian: Tensor) -> Tensor:
        """The weights, shape ``[k]``."""
        moving = (gramian.diagonal() > 0).nonzero().flatten()
        weights = gramian.new_zeros(len(gramian))
        weights[moving] = self._weighting(gramian[moving][:, moving])
        return weights
