"""RotoGradNorm: rotations with GradNorm's task weights."""

from typing import Any

from torch import Tensor

from rotograd_cli.methods.base import BackwardStep
from rotograd_cli.methods.learned_weights import LearnedWeights
from rotograd_cli.methods.rotateonly import RotateOnly


class RotoGradNorm(LearnedWeights, RotateOnly):
    r"""RotateOnly with learned task weights :math:`w_k = K\,e^{\omega_k}/\sum_j e^{\omega_j}`.

    The backbone receives :math:`\sum_k w_k g_k`; the weights descend

    .. math::
        \sum_k \Bigl|\, w_k\lVert g_k\rVert - \lVert \tfrac1K\textstyle\sum_j w_j g_j\rVert\,
        \Bigl(\frac{\tilde L_k}{\frac1K\sum_j \tilde L_j}\Bigr)^{\alpha} \Bigr|,
        \qquad \tilde L_k = L_k/L_k^0,

    with the target (second term) constant. GradNorm itself has the mean of the norms where the
    authors' code, and this class, have the norm of the mean.

    A task whose loss is negative, or has never been positive, has no rate of progress: its relative
    rate is 1, and so is everyone's when all ratios are 0. A task whose gradient is zero takes no
    part, in the means as in the descent.

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
        self.start_weights(self.num_tasks, alpha)

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
        gradient = self.weight_gradient(weights, norms, mean_norm, step.losses, present)
        self.add_gradient(self.log_weight, gradient, of_all_ranks=True)
