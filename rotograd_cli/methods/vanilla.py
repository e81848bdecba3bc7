"""Vanilla multi-task learning: the sum of the task losses."""

from torch import Tensor

from rotograd_cli.methods.base import BackwardStep, MultiTaskMethod


class VanillaMTL(MultiTaskMethod):
    r"""Joint training: the backbone receives :math:`\sum_k g_k`, the gradient of the summed losses.

    Args:
        backbone: Shared network.
        heads: One network per task.
        feature_shape: Shape of the features of one example; not needed here.
    """

    per_task_gradients = False

    def shared_gradient(self, task_gradients: Tensor, step: BackwardStep) -> Tensor:
        """The sum that autograd has formed."""
        return task_gradients
