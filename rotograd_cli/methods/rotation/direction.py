r"""The direction that rotated gradients are to share, v' (V of Algorithm 1)."""

import torch
from torch import Tensor

from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.rotation.task_gradients import TaskGradients
from rotograd_cli.methods.rule import Statistics


def common_direction(G: TaskGradients, s: Statistics) -> tuple[Tensor, Tensor]:
    r"""Return the mean of the unit gradients at the length of the mean gradient, as two factors.

    .. math:: v' = \frac{1}{K}\sum_k \frac{\lVert \bar g\rVert}{\lVert g_k\rVert}\, g_k, \qquad
        \bar g = \frac{1}{K}\sum_k g_k.

    Args:
        G: The K task gradients.
        s: Their statistics; K counts the tasks that take part.

    Returns:
        The sum of the unit gradients, shape ``[N, d, S]``, and :math:`\lVert\bar g\rVert / K`.
    """
    ones = torch.ones_like(s.norms)
    num_present = s.present.sum().clamp_min(1)
    sum_of_units = G.combine(divide_or_zero(ones, s.norms).unsqueeze(0))[0]
    mean_norm = s.norms_of(ones.unsqueeze(0))[0] / num_present
    return sum_of_units, mean_norm / num_present
