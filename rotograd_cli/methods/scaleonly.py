"""RotoGrad's scaling of gradient magnitudes."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.initial_values import InitialValues
from rotograd_cli.methods.rule import Statistics, Weighting


class ScaleOnly(Weighting):
    r"""All task gradients get the same norm C, steered by convergence.

    .. math::
        C\,\sum_k \frac{g_k}{\lVert g_k\rVert}, \qquad C = \sum_k \alpha_k \lVert g_k\rVert, \qquad
        \alpha_k \propto \frac{\lVert g_k\rVert}{\lVert g_k^0\rVert}, \quad \sum_k \alpha_k = 1.

    A start norm :math:`\lVert g_k^0\rVert` of zero is not recorded: the first gradient that is not
    zero becomes the start. (The authors' code keeps 1e-15, after which that task takes nearly all
    the weight.) The clock of a task that takes no part stands still. With rotations, this is
    :class:`~rotograd_cli.methods.rotograd.RotoGrad`.

    Args:
        num_tasks: Number K of tasks.
        burn_in_period: Step (from 0) whose norms replace those of step 0 as start values.

    References:
        Javaloy and Valera, ICLR 2022, section 4.1 and Algorithm 1.
    """

    @checked
    def __init__(self, *, num_tasks: int, burn_in_period: Annotated[int, Ge(0)] = 20) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.initial_norms = InitialValues(num_tasks, burn_in_period)

    def weights(self, s: Statistics) -> Tensor:
        r"""Return :math:`C/\lVert g_k\rVert`, 0 where the norm is, shape ``[K]``."""
        self.initial_norms.update(s.norms, s.present, accumulating=s.losses.accumulating)
        ratios = s.norms / self.initial_norms.denominators.to(s.norms.dtype)
        alphas = divide_or_zero(ratios, ratios.sum())
        C = torch.dot(alphas, s.norms)
        return divide_or_zero(C, s.norms)
