"""Methods whose weights depend on the inner products of the task gradients alone."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from rotograd_cli.linalg.gradients import divide_or_zero, without_rounding
from rotograd_cli.methods.base import BackwardStep, MultiTaskMethod


class GramianMethod(MultiTaskMethod):
    r"""The backbone receives :math:`\sum_k w_k g_k`, weights found from inner products.

    One row per task: the gradient at the features of the whole batch, flattened, so that examples
    are never summed first (Sener and Koltun's upper bound, "MGDA-UB"). The K × K matrix of inner
    products goes to the host in float64, where the weights are found; this one transfer of
    K² + 2K numbers is the only wait for the device in a step. The heads get the plain losses.

    Combinations of the directions that are zero but for rounding count as zero, so that gradients
    that are linearly dependent are so in float32 too.

    Tasks without a loss take no part. A task whose gradient or loss is infinite or NaN is left out
    and counted in ``num_nonfinite``. A single remaining task gives its plain gradient, and where
    all gradients are zero so is the result.

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
            gramian: Inner products of at least two gradients, the largest squared norm 1; float64
                on the CPU, shape ``[k, k]``.

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
        rows = task_gradients.flatten(1)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        norms = self.ranks.norms(torch.linalg.vector_norm(rows, dim=1))
        finite = norms.isfinite() & step.losses.isfinite()
        units = divide_or_zero(rows, norms.unsqueeze(1))  # so that no product over- or underflows
        cosines = self.ranks.sum(units @ units.mT)
        columns = (norms, finite.to(norms.dtype), step.present.to(norms.dtype))
        *host, norm, ok, present = self.to_host(torch.stack((*cosines, *columns)))
        eps, part = torch.finfo(rows.dtype).eps, (ok * present) > 0
        weights = spread_weights(self.task_weights, torch.stack(host), norm, part, eps)
        if not bool(ok.all()):
            self.num_nonfinite += step.present & ~finite
            rows = torch.where(finite.unsqueeze(1), rows, 0)
        shared = weights.to(rows.device, rows.dtype, non_blocking=True) @ rows
        return shared.view(task_gradients.shape[1:])


def directions(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and lengths, for rules whose solvers need them apart.

    Args:
        gramian: Inner products, shape ``[k, k]``.

    Returns:
        Cosines between the gradients, 0 for those that are zero, shape ``[k, k]``; their lengths,
        shape ``[k]``.
    """
    lengths = gramian.diagonal().sqrt()
    return divide_or_zero(gramian, lengths.unsqueeze(1) * lengths), lengths


def spread_weights(
    rule: Callable[[Tensor, Tensor], Tensor],
    cosines: Tensor,
    norms: Tensor,
    taking_part: Tensor,
    eps: float,
) -> Tensor:
    """Weights of all tasks: 0 for those that take no part, 1 for one alone.

    Args:
        rule: Weights from the Gramian of the tasks that take part, in units of the largest squared
            norm, and from their indices.
        cosines: Float64 on the CPU, shape ``[K, K]``.
        norms: Shape ``[K]``.
        taking_part: Boolean, shape ``[K]``.
        eps: Rounding error of the cosines: machine epsilon of the dtype they were formed in.

    Returns:
        Shape ``[K]``.
    """
    chosen = taking_part.nonzero().flatten()
    weights = norms.new_zeros(len(norms))
    lengths = norms[chosen]
    if len(chosen) == 1:
        weights[chosen] = 1
    elif len(chosen) > 1 and lengths.amax() > 0:
        lengths = lengths / lengths.amax()
        clean = without_rounding(cosines[chosen][:, chosen], 4 * len(chosen) * eps)
        gramian = clean * (lengths.unsqueeze(1) * lengths)
        weights[chosen] = rule(gramian, chosen)
    return weights
