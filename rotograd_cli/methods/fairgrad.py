"""FairGrad: alpha-fair gains."""

from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.methods.rule import GramianWeighting

_EVALUATIONS = 200  # of the solver, which needs 5 to 50 where there is a solution


class FairGrad(GramianWeighting):
    r"""Weights :math:`w>0` with :math:`G w = w^{-1/\alpha}`, G the Gramian.

    These maximise the :math:`\alpha`-fair utility of the tasks' gains
    :math:`\langle g_k, d\rangle`. G is in units of the largest squared norm, so that the step
    scales with the gradients as that of every other method. Where gradients cancel out and there is
    no solution, the weights are those at which the solver stops.

    The solver is scipy's, as in torchjd, with the unknowns in units of each task's own solution and
    with derivatives: torchjd's call misses the solution where lengths differ by a factor of 1000,
    and takes seconds for 40 tasks.

    Args:
        alpha: Fairness: 0 is the mean gradient, 1 proportional fairness (Nash), larger values more
            even gains.

    References:
        Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, equation 4.
    """

    permutation_equivariant: ClassVar[bool] = False  # only as exactly as the solver is

    @checked
    def __init__(self, *, alpha: Annotated[float, Ge(0)] = 2.0) -> None:
        super().__init__()
        self.alpha = alpha

    def weights_of(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """Weights > 0, shape ``[k]``."""
        if self.alpha == 0:
            return torch.full_like(gramian[0], 1 / len(gramian))
        return fair_weights(gramian, self.alpha, torch.ones_like(gramian[0]))


def fair_weights(gramian: Tensor, alpha: float, shares: Tensor) -> Tensor:
    r"""Return the weights :math:`w>0` with :math:`G w = (p/w)^{1/\alpha}`.

    Args:
        gramian: G, float64 on the host, shape ``[k, k]``.
        alpha: More than 0.
        shares: p, positive, float64 on the host, shape ``[k]``.

    Returns:
        Shape ``[k]``; where there is no solution, the weights at which the solver stops.
    """
    from scipy.optimize import least_squares  # slow to import

    p = 1 / alpha
    right = shares.numpy() ** p
    # the solution without the others
    alone = gramian.diagonal().numpy() ** (-1 / (1 + p)) * right ** (1 / (1 + p))
    # has ones on its diagonal
    scaled = alone[:, None] ** p * gramian.numpy() * alone / right[:, None]
    result = least_squares(
        lambda x: scaled @ x - x**-p,
        np.ones(len(alone)),
        jac=lambda x: scaled + np.diag(p * x ** (-p - 1)),
        bounds=(0, np.inf),
        max_nfev=_EVALUATIONS,
    )
    return torch.from_numpy(alone * result.x)
