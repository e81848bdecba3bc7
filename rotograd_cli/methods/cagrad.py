"""CAGrad: near the mean, as good as possible for the task that gains least."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.linalg.gradients import directions, divide_or_zero
from rotograd_cli.methods.mgda import factor, simplex_weights
from rotograd_cli.methods.rule import Statistics, Weighting, weights_from_gramian

_SMALLEST = 1e-6  # multiplier in units of the largest: below it, the gradients are stationary
_ACCURACY = 1e-12  # of the multiplier's logarithm


class CAGrad(Weighting):
    r"""The direction near the mean gradient that is best for the worst task.

    The backbone receives the d of :math:`\max_d\min_k\langle g_k,d\rangle` within
    :math:`\lVert d-\bar g\rVert \le c\lVert\bar g\rVert`. With the multiplier :math:`\lambda` of
    the ball, :math:`d = \bar g + \frac1\lambda\sum_k w_k g_k`, where the convex combination is the
    one with the shortest :math:`\lambda\bar g + \sum_k w_k g_k`: MGDA's problem, which is solved
    exactly. :math:`\lambda` is the root at which d lies on the ball.

    Where no direction in the ball is better for the worst task than one inside it (from
    :math:`c = 1` on, where the gradients are Pareto-stationary), d is the best one that is nearest
    to the mean. In every dtype, a d that rounding takes out of the ball is drawn back onto it.

    Args:
        c: Radius of the ball in units of the mean's norm; 0 is the mean gradient.

    References:
        Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021,
        Algorithm 1.
    """

    num_device_waits: ClassVar[int] = 1

    @checked
    def __init__(self, *, c: Annotated[float, Ge(0), Lt(math.inf)] = 0.4) -> None:
        super().__init__()
        self.c = float(c)

    def weights(self, s: Statistics) -> Tensor:
        """Return the weights of d, drawn back onto the ball where rounding took it out."""
        mean = s.present / s.present.sum().clamp_min(1)
        mean = mean.to(s.norms.dtype)
        offset = weights_from_gramian(s, self._exact_weights) - mean
        norm, length = s.norms_of(torch.stack((mean, offset))).unbind()
        return mean + divide_or_zero(self.c * norm, length).clamp_max(1) * offset

    def _exact_weights(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """Return 1/k and what leads from the mean to d, shape ``[k]``."""
        cosines, lengths = directions(gramian)
        units = factor(cosines)
        offset = best_offset(units * lengths.unsqueeze(1), self.c)
        # the shortest weights of all: those of dependent gradients could be any size
        shortest: Tensor = torch.linalg.pinv(units.mT) @ offset
        return shortest / lengths + 1 / len(lengths)


def best_offset(vectors: Tensor, c: float) -> Tensor:
    r"""Return the :math:`d - \bar g` of :class:`CAGrad`.

    Args:
        vectors: Gradients or vectors with the same inner products, float64, shape ``[k, r]``.
        c: Radius of the ball, in units of the mean's norm.

    Returns:
        Shape ``[r]``.
    """
    from scipy.optimize import brentq  # slow to import

    mean = vectors.mean(0)
    radius = c * float(mean.norm())
    if radius == 0:
        return torch.zeros_like(mean)

    def offset(multiplier: float) -> Tensor:
        shifted = vectors + multiplier * mean
        lengths = shifted.norm(dim=1)
        units = divide_or_zero(shifted, lengths.unsqueeze(1))
        return simplex_weights(units, lengths) @ vectors / multiplier

    def excess(logarithm: float) -> float:
        return math.log(max(float(offset(10**logarithm).norm()) / radius, 1e-300))

    largest = math.log10(2 * float(vectors.norm(dim=1).amax()) / radius)
    smallest = largest + math.log10(_SMALLEST)
    if excess(smallest) <= 0:  # no need of the whole ball: this is the limit without it
        return offset(10**smallest)
    return offset(10 ** brentq(excess, smallest, largest, xtol=_ACCURACY))
