"""RotoGradNorm: rotations with GradNorm's task weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.base import BackwardStep
from rotograd_cli.methods.rotateonly import RotateOnly

_EPSILON = 1e-15  # of the authors' code: keeps every weight positive


class RotoGradNorm(RotateOnly):
    r"""RotateOnly with learned task weights :math:`w_k = K\,e^{\omega_k}/\sum_j e^{\omega_j}`.

    The backbone receives :math:`\sum_k w_k g_k`; the weights descend

    .. math::
        \sum_k \Bigl|\, w_k\lVert g_k\rVert - \lVert \tfrac1K\textstyle\sum_j w_j g_j\rVert\,
        \Bigl(\frac{\tilde L_k}{\frac1K\sum_j \tilde L_j}\Bigr)^{\alpha} \Bigr|,
        \qquad \tilde L_k = L_k/L_k^0,

    with the target (second term) constant. GradNorm itself has the mean of the norms where the
    authors' code, and this class, have the norm of the mean. Ratios use magnitudes, so losses of
    mixed sign stay real; a task without a usable start value counts its loss as it is, and when all
    ratios are 0 every task has the same target.

    Args:
        *args: As :class:`RotateOnly`.
        alpha: Exponent of the relative inverse training rate, ≥ 0; 0 asks for equal norms.
        **kwargs: As :class:`RotateOnly`.

    Raises:
        ConfigError: If ``alpha`` is negative or not finite.

    References:
        Javaloy and Valera, ICLR 2022; Chen et al., "GradNorm: Gradient Normalization for Adaptive
        Loss Balancing in Deep Multitask Networks", ICML 2018, equations 1 and 2.
    """

    def __init__(self, *args: Any, alpha: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ConfigError(f"`alpha` must be a finite number of at least 0, got {alpha}.")
        self.alpha = float(alpha)
        self.log_weight = nn.Parameter(torch.zeros(self.num_tasks))

    @property
    def weight(self) -> Tensor:
        """Task weights, positive with sum K, shape ``[K]``, differentiable in the parameters."""
        unnormalised = (self.log_weight - self.log_weight.detach().amax()).exp() + _EPSILON
        return self.num_tasks * unnormalised / unnormalised.sum()

    def diagnostics(self) -> dict[str, Tensor]:
        """The task weights."""
        return {"weight": self.weight.detach()}

    def combination_weights(self, norms: Tensor, present: Tensor, step: BackwardStep) -> Tensor:
        """The task weights, shape ``[K]``."""
        return self.weight.detach().to(norms.dtype)

    def learn(
        self,
        weights: Tensor,
        norms: Tensor,
        mean_norm: Tensor,
        present: Tensor,
        step: BackwardStep,
    ) -> None:
        """Sets the gradient of the task weights."""
        targets = mean_norm * self._inverse_training_rates(step.losses, present) ** self.alpha
        signs = torch.where(present, torch.sign(norms * weights - targets), 0)
        self.add_gradient(self.log_weight, self._weight_gradient(weights, signs * norms))

    def _inverse_training_rates(self, losses: Tensor, present: Tensor) -> Tensor:
        """Progress of each task relative to the mean, shape ``[K]``: above 1 for laggards."""
        initial = self.initial_losses.denominators
        ratios = torch.where(present, losses.to(initial.dtype).abs() / initial, 0)
        mean = ratios.sum() / present.sum().clamp_min(1)
        return torch.where(mean == 0, 1, divide_or_zero(ratios, mean))

    def _weight_gradient(self, w: Tensor, slopes: Tensor) -> Tensor:
        r"""Chain rule through the softmax: :math:`w_k (s_k - \frac1K\sum_j s_j w_j)`, ``[K]``."""
        return w * (slopes - torch.dot(slopes, w) / self.num_tasks)
