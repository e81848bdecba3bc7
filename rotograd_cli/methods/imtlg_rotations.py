"""IMTL-G with rotations that the task losses train: the paper's control."""

from typing import ClassVar

import torch
from torch import Tensor

from rotograd_cli.methods.base import BackwardStep
from rotograd_cli.methods.gramian import spread_weights
from rotograd_cli.methods.imtlg import IMTLG
from rotograd_cli.methods.rotateonly import RotateOnly
from rotograd_cli.methods.task_gradients import TaskGradients


class IMTLGRotations(RotateOnly):
    r"""RotateOnly's network, with :math:`R_k` descending the task loss :math:`L_k` itself.

    The backbone receives IMTL-G's combination of the gradients :math:`g_k` before the rotations. So
    the rotations are nothing but more parameters of the heads: what RotoGrad gains beyond this is
    not for the sake of the parameters. The options that concern the rotations' own loss
    (``rotation_reduction``) have no meaning here.

    Args:
        *args: As :class:`RotateOnly`.
        **kwargs: As :class:`RotateOnly`.

    References:
        Javaloy and Valera, the row "IMTL-G + R_k" of the CIFAR10 table; Liu et al., "Towards
        Impartial Multi-Task Learning", ICLR 2021.
    """

    num_device_waits: ClassVar[int] = 1

    def task_weights(
        self, G: TaskGradients, norms: Tensor, present: Tensor, step: BackwardStep
    ) -> Tensor:
        """IMTL-G's weights, shape ``[K]``."""
        cosines = self.ranks.sum(G.cosines(norms))
        numbers = torch.stack((*cosines, norms, present.to(norms.dtype)))
        *rows, norm, part = self.to_host(numbers)
        eps = torch.finfo(norms.dtype).eps
        weights = spread_weights(IMTLG().weights_of, torch.stack(rows), norm, part > 0, eps)
        return weights.to(norms.device, norms.dtype, non_blocking=True)

    def turn(
        self,
        G: TaskGradients,
        norms: Tensor,
        weights: Tensor,
        present: Tensor,
        step: BackwardStep,
    ) -> Tensor:
        """Sets the gradients of the task losses in the rotations; combines the task gradients."""
        features = self._rep
        assert features is not None
        z = self.axes.to_blocks(features.detach())
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        one = torch.ones((), dtype=z.dtype, device=z.device)
        self.add_gradient(self.rotations.free_parameters, G.rotation_gradient(z, one))
        return G.combine(weights.unsqueeze(0))[0]
