r"""What the rotations descend: the alignment of the task gradients, or the task losses."""

from typing import Literal, Protocol

import torch
from torch import Tensor

from rotograd_cli.methods.rotation.direction import common_direction
from rotograd_cli.methods.rotation.task_gradients import TaskGradients
from rotograd_cli.methods.rule import Statistics

ObjectiveName = Literal["alignment", "task_loss"]


class Objective(Protocol):
    """A loss of the rotations whose gradient the task gradients give in closed form."""

    def gradient(
        self, G: TaskGradients, s: Statistics, features: Tensor, reduction: float
    ) -> Tensor:
        """Gradient of the free parameters, of this process's examples.

        Args:
            G: Task gradients.
            s: Their statistics.
            features: z, shape ``[N, d, S]``.
            reduction: Factor of the sum over examples.

        Returns:
            Strictly lower triangular, shape ``[K, m, m]``.
        """


class Alignment:
    r"""RotoGrad's loss :math:`\sum_n \lVert R_k v'_n - \tilde g_{n,k} \rVert^2`.

    With v' and :math:`\tilde g_k = R_k g_k` constant, :math:`W_k = R_k^\top\,\partial/\partial R_k
    = 2 v'v'^\top - 2\sum_n g_{n,k} v_n'^\top`. Only the skew part of W moves a rotation, so the
    first term, and with it the residual, is never formed.
    """

    def gradient(
        self, G: TaskGradients, s: Statistics, features: Tensor, reduction: float
    ) -> Tensor:
        """See :class:`Objective`."""
        direction, length = common_direction(G, s)
        return G.rotation_gradient(direction, -2.0 * reduction * length)


class TaskLoss:
    r"""The task's own loss: :math:`W_k = \sum_n g_{n,k} z_n^\top`.

    The rotations are nothing but more parameters of the heads then: the paper's control.
    """

    def gradient(
        self, G: TaskGradients, s: Statistics, features: Tensor, reduction: float
    ) -> Tensor:
        """See :class:`Objective`."""
        one = torch.ones((), dtype=s.norms.dtype, device=s.norms.device)
        return G.rotation_gradient(features.to(s.norms.dtype), one)


OBJECTIVES: dict[ObjectiveName, type[Objective]] = {"alignment": Alignment, "task_loss": TaskLoss}
