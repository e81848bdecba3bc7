"""Methods whose weights depend on the inner products of the task gradients alone."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from rotograd_cli.linalg.gradients import divide_or_zero, norms_of, without_rounding
from rotograd_cli.methods.base import BackwardStep, MultiTaskMethod
from rotograd_cli.methods.rows import taking_part, wide_rows


class GramianMethod(MultiTaskMethod):
    r"""The backbone receives :math:`\sum_k w_k g_k`, weights found from inner products.

    One row per task: the gradient at the features of the whole batch, flattened, so that examples
    are never summed first (Sener and Koltun's upper bound, "MGDA-UB"). The K × K matrix of inner
    products goes to the host in float64, where the weights are found; this one transfer of
    K² + 2K numbers is the only wait for the device in a step. The heads get the plain losses.

    Combinations of the directions that are zero but for rounding count as zero, so that gradients
    that are linearly dependent are so in float32 too.

    Tasks without a loss or with a gradient of exactly zero take no part. A task whose gradient or
    loss is infinite or NaN is left out and counted in ``num_nonfinite``. A single remaining task
    gives its plain gradient, and where all gradients are zero so is the result.

    A method overrides :meth:`weights` or :meth:`task_weights`.

    Args:
        backbone: Shared network.
        heads: One network per task.
        feature_shape: Shape of the features of one example; not needed here.
    """

    num_device_waits: ClassVar[int] = 1

    def weights(self, gramian: Tensor) -> Tensor:
        """Weights of the tasks that take part.

        Args:
            gramian: Inner products of at least two gradients, none of them zero, the largest
                squared norm 1; float64 on the CPU, shape ``[k, k]``.

        Returns:
            Weights, shape ``[k]``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define weights")

    def task_weights(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """As :meth:`weights`, for methods that have to know which tasks these are.

        Args:
            gramian: See :meth:`weights`.
            tasks: Their indices, on the CPU, shape ``[k]``.

        Returns:
            Weights, shape ``[k]``.
        """
        return self.weights(gramian)

    def shared_gradient(self, task_gradients: Tensor, step: BackwardStep) -> Tensor:
        """The weighted sum; see the class."""
        rows = wide_rows(task_gradients)
        norms = self.ranks.norms(norms_of(rows.unbind()))
        present = taking_part(norms, step, self.num_nonfinite)
        units = divide_or_zero(rows, norms.unsqueeze(1))  # so that no product over- or underflows
        cosines = self.ranks.sum(units @ units.mT)
        *host, norm, part = self.to_host(torch.stack((*cosines, norms, present.to(norms.dtype))))
        eps = torch.finfo(rows.dtype).eps
        weights = spread_weights(self.task_weights, torch.stack(host), norm, part > 0, eps)
        if not bool(part.all()):  # a row that is not finite would spoil the sum
            rows = torch.where(present.unsqueeze(1), rows, 0)
        weights = weights.to(rows.device, rows.dtype, non_blocking=True)
        return self.combine(weights, rows, present).view(task_gradients.shape[1:])

    def combine(self, weights: Tensor, rows: Tensor, present: Tensor) -> Tensor:
        """The direction that the weights make of the gradients; the default is their sum.

        Args:
            weights: 0 for tasks that take no part, shape ``[K]``.
            rows: Gradients, zero for tasks that take no part, shape ``[K, D]``.
            present: Tasks that take part, boolean, shape ``[K]``.

        Returns:
            Shape ``[D]``.
        """
        return weights @ rows


def directions(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and lengths, for rules whose solvers need them apart.

    Args:
        gramian: Inner products, shape ``[k, k]``.

    Returns:
        Cosines between the gradients, shape ``[k, k]``; their lengths, shape ``[k]``.
    """
    lengths = gramian.diagonal().sqrt()
    return gramian / lengths.unsqueeze(1) / lengths, lengths


def spread_weights(
    rule: Callable[[Tensor, Tensor], Tensor],
    cosines: Tensor,
    norms: Tensor,
    present: Tensor,
    eps: float,
) -> Tensor:
    """Weights of all tasks: 0 for those that take no part, 1 for one alone.

    Args:
        rule: Weights from the Gramian of the tasks that take part, in units of the largest squared
            norm, and from their indices.
        cosines: Float64 on the CPU, shape ``[K, K]``.
        norms: Those of the tasks that take part are positive, shape ``[K]``.
        present: Tasks that take part, boolean, shape ``[K]``.
        eps: Rounding error of the cosines: machine epsilon of the dtype they were formed in.

    Returns:
        Shape ``[K]``.
    """
    chosen = present.nonzero().flatten()
    weights = norms.new_zeros(len(norms))
    lengths = norms[chosen]
    if len(chosen) == 1:
        weights[chosen] = 1
    elif len(chosen) > 1:
        lengths = (lengths / lengths.amax()).clamp_min(1e-100)  # so that no square is zero
        clean = without_rounding(cosines[chosen][:, chosen], 4 * len(chosen) * eps)
        gramian = clean * (lengths.unsqueeze(1) * lengths)
        weights[chosen] = rule(gramian, chosen)
    return weights
