r"""Norms and reference direction of task gradients, stacked as one matrix with a row per task.

The rows :math:`g_k` are the gradients of the K task losses with respect to the shared features,
flattened over the whole batch: shape ``[K, D]``. Absent tasks are rows of zeros with ``present[k] =
False``.
"""

import torch
from torch import Tensor

from rotograd_cli.errors import ShapeError


def task_norms(task_gradients: Tensor) -> Tensor:
    r"""Euclidean norm of every task gradient, :math:`\lVert g_k\rVert`.

    Args:
        task_gradients: Flattened gradients, one row per task, shape ``[K, D]``.

    Returns:
        Norms, shape ``[K]``, accumulated in float32 or wider.

    Raises:
        ShapeError: If ``task_gradients`` is not a matrix.
    """
    _check_matrix(task_gradients)
    dtype = torch.promote_types(task_gradients.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(task_gradients, dim=1, dtype=dtype)
    return norms


def mean_gradient_norm(task_gradients: Tensor, num_present: Tensor) -> Tensor:
    r"""Norm of the mean task gradient, :math:`\lVert \frac{1}{K}\sum_k g_k\rVert`.

    Args:
        task_gradients: Flattened gradients, shape ``[K, D]``; rows of absent tasks are zero.
        num_present: Number of tasks that take part (the K of the mean), scalar tensor.

    Returns:
        The norm, scalar tensor; 0 when no task takes part.
    """
    _check_matrix(task_gradients)
    dtype = torch.promote_types(task_gradients.dtype, torch.float32)
    total: Tensor = torch.linalg.vector_norm(task_gradients.sum(0), dtype=dtype)
    return total / num_present.clamp_min(1)


def reference_weights(task_gradients: Tensor, norms: Tensor, num_present: Tensor) -> Tensor:
    r"""Weights of the direction that rotations align to, :math:`v' = \sum_k c_k g_k`.

    .. math::
        v' = \frac{1}{K}\sum_k \frac{\lVert \bar g\rVert}{\lVert g_k\rVert}\, g_k,
        \qquad \bar g = \frac{1}{K}\sum_k g_k,

    the mean of the unit gradients (V of Algorithm 1) at the length of the mean gradient, as the
    authors' code has it.

    Args:
        task_gradients: Flattened gradients, shape ``[K, D]``; rows of absent tasks are zero.
        norms: Their norms (:func:`task_norms`), shape ``[K]``.
        num_present: Number of tasks that take part, scalar tensor.

    Returns:
        Weights :math:`c_k`, shape ``[K]``. A task whose gradient is zero weighs 0.

    Examples:
        >>> g = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> reference_weights(g, task_norms(g), torch.tensor(2)) @ g
        tensor([0.7906, 0.7906])
    """
    length = mean_gradient_norm(task_gradients, num_present)
    return divide_or_zero(length, norms) / num_present.clamp_min(1)


def divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient with 0 where the denominator is 0, without inf or NaN on the way.

    Args:
        numerator: Any tensor.
        denominator: A tensor that broadcasts with it.

    Returns:
        ``numerator / denominator``, and 0 where ``denominator`` is 0.

    Examples:
        >>> divide_or_zero(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 0.0]))
        tensor([0.2500, 0.0000])
    """
    is_zero = denominator == 0
    return torch.where(is_zero, 0, numerator / torch.where(is_zero, 1, denominator))


def _check_matrix(task_gradients: Tensor) -> None:
    if task_gradients.dim() != 2:
        raise ShapeError(
            f"`task_gradients` must have shape [K, D], got {list(task_gradients.shape)}; "
            "flatten each gradient and stack the tasks on the first axis."
        )
