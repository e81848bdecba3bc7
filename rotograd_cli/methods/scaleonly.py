"""RotoGrad's scaling of gradient magnitudes, without rotations."""

from typing import Any

from torch import Tensor

from rotograd_cli.methods.base import BackwardStep, MultiTaskMethod
from rotograd_cli.methods.initial_values import InitialValues
from rotograd_cli.methods.rotograd import equal_norm_weights
from rotograd_cli.methods.rows import usable_rows


class ScaleOnly(MultiTaskMethod):
    r"""The backbone receives :math:`C\sum_k g_k/\lVert g_k\rVert` with RotoGrad's C.

    What remains of :class:`~rotograd_cli.methods.rotograd.RotoGrad` when the rotations are left
    out: all task gradients get the same norm, steered by convergence. The heads get the plain
    losses. A task whose gradient is zero takes no part.

    Args:
        *args: As :class:`MultiTaskMethod`.
        burn_in_period: Step (from 0) whose norms replace those of step 0 as start values.
        **kwargs: As :class:`MultiTaskMethod`.

    Raises:
        ConfigError: If ``burn_in_period`` is negative.

    References:
        Javaloy and Valera, ICLR 2022, section 4.1.
    """

    def __init__(self, *args: Any, burn_in_period: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial_norms = InitialValues(self.num_tasks, burn_in_period)

    def shared_gradient(self, task_gradients: Tensor, step: BackwardStep) -> Tensor:
        """The scaled sum; see the class."""
        rows, norms, present = usable_rows(task_gradients, step, self.num_nonfinite, self.ranks)
        weights = equal_norm_weights(norms, present, self.initial_norms, step)
        return (weights @ rows).view(task_gradients.shape[1:])
