"""FairGrad: alpha-fair gains."""

from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.gramian import GramianMethod

_EVALUATIONS = 200  # of the solver, which needs 5 to 50 where there is a solution


class FairGrad(GramianMethod):
    r"""Weights :math:`w>0` with :math:`G w = w^{-1/\alpha}`, G the Gramian.

    These maximise the :math:`\alpha`-fair utility of the tasks' gains
    :math:`\langle g_k, d\rangle`. G is in units of the largest squared norm, so that the step
    scales with the gradients as that of every other method. Where gradients cancel out and there is
    no solution, the weights are those at which the solver stops.

    The solver is scipy's, as in torchjd, with the unknowns in units of each task's own solution and
    with derivatives: torchjd's call misses the solution where lengths differ by a factor of 1000,
    and takes seconds for 40 tasks.

    Args:
        *args: As :class:`GramianMethod`.
        alpha: Fairness ≥ 0: 0 is the mean gradient, 1 proportional fairness (Nash), larger
            values more even gains.
        **kwargs: As :class:`GramianMethod`.

    Raises:
        ConfigError: If ``alpha`` is negative.

    References:
        Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, equation 4.
    """

    permutation_equivariant: ClassVar[bool] = False  # only as exactly as the solver is

    def __init__(self, *args: Any, alpha: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not alpha >= 0:
            raise ConfigError(f"`alpha` must be at least 0, got {alpha}.")
        self.alpha = alpha

    def weights(self, gramian: Tensor) -> Tensor:
        """The weights, shape ``[k]``."""
        return fair_weights(gramian, self.alpha)


def fair_weights(gramian: Tensor, alpha: float) -> Tensor:
    r"""Weights with :math:`G w = w^{-1/\alpha}`; see :class:`FairGrad`.

    Args:
        gramian: Inner products of gradients that are not zero, shape ``[k, k]``.
        alpha: Fairness ≥ 0.

    Returns:
        Weights > 0, shape ``[k]``.
    """
    if alpha == 0:
        return torch.full_like(gramian[0], 1 / len(gramian))
    p = 1 / alpha
    alone = gramian.diagonal().numpy() ** (-1 / (1 + p))  # the solution without the others
    scaled = alone[:, None] ** p * gramian.numpy() * alone  # has ones on its diagonal

    def residual(x: Any) -> Any:
        return scaled @ x - x**-p

    def jacobian(x: Any) -> Any:
        return scaled + np.diag(p * x ** (-p - 1))

    start = np.ones(len(alone))
    found = least_squares(residual, start, jacobian, bounds=(0, np.inf), max_nfev=_EVALUATIONS)
    return torch.from_numpy(alone * found.x)
