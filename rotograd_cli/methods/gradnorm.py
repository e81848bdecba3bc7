"""GradNorm: learned task weights that even out gradient norms."""

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from rotograd_cli.bounds import checked
from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.initial_values import InitialValues
from rotograd_cli.methods.rule import Learned, Losses, LossWeighting, Rule, Statistics, Weighting

_EPSILON = 1e-15  # of the authors' code: keeps every weight positive


class LearnedWeights(Rule):
    r"""Task weights :math:`w_k = K\,e^{\omega_k}/\sum_j e^{\omega_j}` that even out norms.

    They descend

    .. math::
        \sum_k \Bigl|\, w_k\lVert g_k\rVert - \text{level}\,
        \Bigl(\frac{\tilde L_k}{\frac1K\sum_j \tilde L_j}\Bigr)^{\alpha} \Bigr|,
        \qquad \tilde L_k = L_k/L_k^0,

    with the target (second term) constant. The weights keep their sum K through a softmax instead
    of a renormalisation after each step, so that the second optimiser trains them as it trains
    rotations.

    A task whose gradient is zero takes no part in any mean. A task whose loss is negative, or has
    never been positive, has no rate of progress: its relative rate is 1, and so is everyone's when
    all ratios are 0.

    Args:
        num_tasks: Number K of tasks.
        alpha: Exponent of the relative inverse training rate; 0 asks for equal norms.
        burn_in_period: Step (from 0) whose losses replace those of step 0 as start values.

    References:
        Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask
        Networks", ICML 2018, equations 1 and 2.
    """

    @checked
    def __init__(
        self,
        *,
        num_tasks: int,
        alpha: Annotated[float, Ge(0), Lt(math.inf)] = 0.0,
        burn_in_period: Annotated[int, Ge(0)] = 20,
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.alpha = float(alpha)
        self.log_weight = nn.Parameter(torch.zeros(num_tasks))
        self.initial_losses = InitialValues(num_tasks, burn_in_period)

    @property
    def weight(self) -> Tensor:
        """Task weights, positive with sum K, shape ``[K]``, differentiable in the parameters."""
        unnormalised = (self.log_weight - self.log_weight.detach().amax()).exp() + _EPSILON
        return len(unnormalised) * unnormalised / unnormalised.sum()

    def constant_weights(self, losses: Losses) -> Tensor:
        """Record the start values; return the weights without a gradient, shape ``[K]``."""
        self.initial_losses.update(losses.values, losses.present, accumulating=losses.accumulating)
        return self.weight.detach()

    def weight_gradient(self, s: Statistics, weights: Tensor, level: Tensor) -> Learned:
        r"""Return the gradient of the parameters :math:`\omega`.

        Args:
            s: The statistics of the gradients without their weights.
            weights: :math:`w`, shape ``[K]``.
            level: The target at equal rates, scalar.
        """
        targets = level
        if self.alpha != 0:  # anything to the power of 0 is 1
            targets = level * self.inverse_training_rates(s) ** self.alpha
        signs = torch.where(s.present, torch.sign(s.norms * weights - targets), 0)
        slopes = signs * s.norms  # of the loss, by the weights w
        mean = torch.dot(slopes, weights) / len(weights)
        return {self.log_weight: weights * (slopes - mean)}  # through the softmax

    def inverse_training_rates(self, s: Statistics) -> Tensor:
        """Return each task's progress relative to the mean, shape ``[K]``; above 1 for laggards."""
        initial = self.initial_losses.values
        losses = s.losses.values
        usable = s.present & (initial > 0) & (losses >= 0)
        ratios = torch.where(usable, losses.to(initial.dtype) / initial, 0)
        mean = ratios.sum() / usable.sum().clamp_min(1)
        return torch.where(usable & (mean > 0), divide_or_zero(ratios, mean), 1)


class GradNorm(LearnedWeights, LossWeighting):
    r"""GradNorm as printed: backbone and heads receive the gradient of :math:`\sum_k w_k L_k`.

    The level is the mean of the weighted norms. Norms are those at the shared features, or over
    all parameters of the backbone (Chen et al. take the last shared layer's weights).
    """

    sees_gradients: ClassVar[bool] = True

    def factors(self, losses: Losses) -> Tensor:
        """Return the task weights, shape ``[K]``."""
        return self.constant_weights(losses)

    def learn(self, s: Statistics, weights: Tensor) -> Learned:
        """Return the gradient of the task weights."""
        weights = weights.to(s.norms.dtype)
        level = torch.dot(weights, s.norms) / s.present.sum().clamp_min(1)
        return self.weight_gradient(s, weights, level)


class GradNormWeights(LearnedWeights, Weighting):
    r"""The backbone receives :math:`\sum_k w_k g_k`, the heads their plain losses: RotoGradNorm's.

    The level is the norm of the mean of the weighted gradients, as in the code of RotoGrad's
    authors.
    """

    def weights(self, s: Statistics) -> Tensor:
        """Return the task weights, shape ``[K]``."""
        return self.constant_weights(s.losses).to(s.norms.dtype)

    def learn(self, s: Statistics, weights: Tensor) -> Learned:
        """Return the gradient of the task weights."""
        level = s.norms_of(weights) / s.present.sum().clamp_min(1)
        return self.weight_gradient(s, weights, level)
