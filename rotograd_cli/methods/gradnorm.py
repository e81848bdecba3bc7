"""GradNorm: learned task weights that even out gradient norms."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rotograd_cli.linalg.gradients import divide_or_zero
from rotograd_cli.methods.backward import multiply_losses
from rotograd_cli.methods.base import BackwardStep, MultiTaskMethod
from rotograd_cli.methods.initial_values import InitialValues
from rotograd_cli.methods.learned_weights import LearnedWeights
from rotograd_cli.methods.rows import usable_rows


class GradNorm(LearnedWeights, MultiTaskMethod):
    r"""Learned weights :math:`w_k` of the losses, which train everything.

    The backbone and the heads receive the gradient of :math:`\sum_k w_k L_k`; the weights descend

    .. math::
        \sum_k \Bigl|\, w_k\lVert g_k\rVert - \Bigl(\tfrac1K\textstyle\sum_j w_j\lVert g_j\rVert
        \Bigr)\,\Bigl(\frac{\tilde L_k}{\frac1K\sum_j \tilde L_j}\Bigr)^{\alpha} \Bigr|,
        \qquad \tilde L_k = L_k/L_k^0,

    with the target constant: the mean of the norms, where RotoGradNorm has the norm of the mean.
    Norms are those at the shared features (Chen et al. take a layer's weights). The weights keep
    their sum K through a softmax instead of a renormalisation after each step, so that the second
    optimiser trains them as it trains rotations.

    Tasks without a loss, or whose gradient is zero, take no part in any mean. A task whose gradient
    or loss is infinite or NaN is left out of the step at the features and counted in
    ``num_nonfinite``. A task whose loss is negative, or has never been positive, has no rate of
    progress: its relative rate is 1, and so is everyone's when all ratios are 0.

    Args:
        *args: As :class:`MultiTaskMethod`.
        alpha: Exponent of the relative inverse training rate, ≥ 0; 0 asks for equal norms.
        burn_in_period: Step (from 0) whose losses replace those of step 0 as start values.
        **kwargs: As :class:`MultiTaskMethod`.

    Raises:
        ConfigError: If an option is out of range.

    References:
        Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask
        Networks", ICML 2018, equations 1 and 2.
    """

    def __init__(self, *args: Any, alpha: float, burn_in_period: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start_weights(self.num_tasks, alpha)
        self.initial_losses = InitialValues(self.num_tasks, burn_in_period)

    def weigh_losses(
        self, losses: Sequence[Tensor | None], step: BackwardStep
    ) -> Sequence[Tensor | None]:
        """The weighted losses; records the start values."""
        self.initial_losses.update(step.losses, step.present, accumulating=step.accumulating)
        return multiply_losses(losses, self.weight.detach())

    def shared_gradient(self, task_gradients: Tensor, step: BackwardStep) -> Tensor:
        """The sum of the weighted gradients; sets the gradient of the task weights."""
        rows, weighted_norms, present = usable_rows(
            task_gradients, step, self.num_nonfinite, self.ranks
        )
        weights = self.weight.detach().to(rows.dtype)
        norms = divide_or_zero(weighted_norms, weights)
        level = weighted_norms.sum() / present.sum().clamp_min(1)
        gradient = self.weight_gradient(weights, norms, level, step.losses, present)
        self.add_gradient(self.log_weight, gradient, of_all_ranks=True)
        return rows.sum(0).view(task_gradients.shape[1:])
