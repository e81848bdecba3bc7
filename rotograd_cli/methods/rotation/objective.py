r"""What the rotations descend: each a function from task gradients to the rotations' gradient.

Arguments are the task gradients, their statistics, the features z ``[N, d, S]`` and the factor of
the sum over examples; the result is the gradient of the free parameters,
``[K, m (m - 1) / 2]``, of this process's examples.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.rotation.task_gradients import TaskGradients
from rotograd_cli.methods.statistics import Statistics

Objective = Callable[[TaskGradients, Statistics, Tensor, float], Tensor]
ObjectiveName = Literal["alignment", "task_loss"]


def common_direction(G: TaskGradients, s: Statistics) -> tuple[Tensor, Tensor]:
    r"""Return the mean of the unit gradients at the length of the mean gradient, as two factors.

    Apart, they keep products with the task gradients within the range of float32.

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
    mean_norm = s.norms_of(ones) / num_present  # first: it takes memory for a moment
    sum_of_units = G.combine(divide_or_zero(ones, s.norms))
    return sum_of_units, mean_norm / num_present


def alignment(G: TaskGradients, s: Statistics, z: Tensor, reduction: float) -> Tensor:
    r"""Descend RotoGrad's loss :math:`\sum_n \lVert R_k v'_n - \tilde g_{n,k} \rVert^2`.

    With v' and :math:`\tilde g_k = R_k g_k` constant, :math:`W_k = R_k^\top\,\partial/\partial R_k
    = 2\sum_n (v'_n - g_{n,k})\,v_n'^\top`. Only the skew part of W moves a rotation, so the
    symmetric first term, and with it the residual, is never formed.
    """
    direction, length = common_direction(G, s)
    return G.rotation_gradient(direction, -2.0 * reduction * length)


def alignment_losses(gramian: Tensor, reduction: float) -> Tensor:
    r"""Return what :func:`alignment` descends, from inner products alone.

    .. math:: f\sum_n\lVert R_k v'_n - \tilde g_{n,k}\rVert^2 = f\,\lVert v' - g_k\rVert^2

    Args:
        gramian: Inner products of the task gradients at the features, float64, ``[K, K]``.
        reduction: f, the factor of the sum over examples.

    Returns:
        Shape ``[K]``; NaN for a task whose gradient is zero or not known, which takes no part.
    """
    takes_part = gramian.diagonal() > 0
    G = gramian[takes_part][:, takes_part]
    num = max(1, len(G))
    mean_norm = G.sum().clamp_min(0).sqrt() / num
    v = mean_norm / num / G.diagonal().sqrt()  # v' in terms of the gradients
    products = G @ v
    losses = gramian.new_full((len(gramian),), torch.nan)
    losses[takes_part] = reduction * (v @ products - 2 * products + G.diagonal()).clamp_min(0)
    return losses


def task_loss(G: TaskGradients, s: Statistics, z: Tensor, reduction: float) -> Tensor:
    r"""Descend the task's own loss: :math:`W_k = \sum_n g_{n,k} z_n^\top`.

    The rotations are nothing but more parameters of the heads then: the paper's control.
    """
    return G.rotation_gradient(z.to(s.norms.dtype), torch.ones_like(s.norms[0]))


OBJECTIVES: dict[ObjectiveName, Objective] = {"alignment": alignment, "task_loss": task_loss}
