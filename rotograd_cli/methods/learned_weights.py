"""Task weights of GradNorm, learned by the second optimiser."""

import math

import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.initial_values import InitialValues

_EPSILON = 1e-15  # of the authors' code: keeps every weight positive


class LearnedWeights(nn.Module):
    r"""What GradNorm and RotoGradNorm share; a mixin of methods, which call :meth:`start_weights`.

    Weights :math:`w_k = K\,e^{\omega_k}/\sum_j e^{\omega_j}` descend :math:`\sum_k |w_k n_k - t_k|`
    with constant norms :math:`n_k` and targets :math:`t_k`, the targets proportional to a power of
    the relative inverse training rates of Chen et al. (equation 2).
    """

    initial_losses: InitialValues

    def start_weights(self, num_tasks: int, alpha: float) -> None:
        """Makes the parameters.

        Args:
            num_tasks: K.
            alpha: Exponent of the relative inverse training rate, ≥ 0.

        Raises:
            ConfigError: If ``alpha`` is negative or not finite.
        """
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ConfigError(f"`alpha` must be a finite number of at least 0, got {alpha}.")
        self.alpha = float(alpha)
        self.log_weight = nn.Parameter(torch.zeros(num_tasks))

    @property
    def weight(self) -> Tensor:
        """Task weights, positive with sum K, shape ``[K]``, differentiable in the parameters."""
        unnormalised = (self.log_weight - self.log_weight.detach().amax()).exp() + _EPSILON
        return len(unnormalised) * unnormalised / unnormalised.sum()

    def diagnostics(self) -> dict[str, Tensor]:
        """The task weights."""
        return {"weight": self.weight.detach()}

    def weight_gradient(
        self, weights: Tensor, norms: Tensor, level: Tensor, losses: Tensor, present: Tensor
    ) -> Tensor:
        r"""Gradient of the parameters :math:`\omega`.

        Args:
            weights: :math:`w`, shape ``[K]``.
            norms: :math:`n`, of the gradients without their weights, shape ``[K]``.
            level: What the targets are at equal rates, scalar.
            losses: Current losses, shape ``[K]``.
            present: Tasks that take part, boolean, shape ``[K]``.

        Returns:
            Shape ``[K]``.
        """
        targets = level * self.inverse_training_rates(losses, present) ** self.alpha
        signs = torch.where(present, torch.sign(norms * weights - targets), 0)
        slopes = signs * norms
        return weights * (slopes - torch.dot(slopes, weights) / len(weights))  # of the softmax

    def inverse_training_rates(self, losses: Tensor, present: Tensor) -> Tensor:
        """Progress of each task relative to the mean, shape ``[K]``: above 1 for laggards.

        A task whose loss is negative, or has never been positive, has no rate of progress: it
        counts as one at the mean, and the mean is that of the others.
        """
        initial = self.initial_losses.values
        usable = present & (initial > 0) & (losses >= 0)
        ratios = torch.where(usable, losses.to(initial.dtype) / initial, 0)
        mean = ratios.sum() / usable.sum().clamp_min(1)
        return torch.where(usable & (mean > 0), divide_or_zero(ratios, mean), 1)
