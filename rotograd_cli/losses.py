"""Task losses: from predictions and targets of a batch to a scalar, averaged over the batch.

The losses of dense tasks average over the pixels with a target; a function beside each says how
many these are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of class logits.

    Args:
        prediction: Logits, shape ``[N, C]``.
        target: Class indices, int64, shape ``[N]``.

    Returns:
        The mean over the batch in nats, scalar.
    """
    return F.cross_entropy(prediction, target)


def binary_cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of one logit per example.

    Args:
        prediction: Logits, shape ``[N, 1]``.
        target: 0 or 1, any dtype, shape ``[N]``.

    Returns:
        The mean over the batch in nats, scalar.
    """
    logits = prediction.squeeze(1)
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of one number per example, or of a map of numbers.

    Args:
        prediction: Shape ``[N, 1]``; of a dense task ``[N, C, ...]``.
        target: Shape ``[N]``; of a dense task the prediction's.

    Returns:
        The mean over the batch (and the map) in squared units of the target, scalar.
    """
    values = prediction.squeeze(1) if prediction.dim() == 2 else prediction
    return F.mse_loss(values, target.to(values.dtype))


def segmentation_cross_entropy(prediction: Tensor, target: Tensor, void: int = -1) -> Tensor:
    """Cross-entropy of class logits per pixel, over the labelled pixels of the batch.

    Args:
        prediction: Logits, shape ``[N, C, H, W]``. Values at unlabelled pixels change nothing, be
            they NaN.
        target: Class indices, any integer dtype, shape ``[N, H, W]``.
        void: Index of pixels without a label.

    Returns:
        The mean in nats, scalar; 0 with zero gradients when no pixel is labelled.
    """
    labelled = target != void
    logits = torch.where(labelled.unsqueeze(1), prediction, 0)
    classes = torch.where(labelled, target, 0).long()
    return _masked_mean(F.cross_entropy(logits, classes, reduction="none"), labelled)


def num_labelled(target: Tensor, void: int = -1) -> Tensor:
    """Number of pixels that :func:`segmentation_cross_entropy` averages over.

    Args:
        target: Class indices, shape ``[N, H, W]``.
        void: Index of pixels without a label.

    Returns:
        The number, float64, scalar, on the device of the target.
    """
    return (target != void).sum(dtype=torch.float64)


def depth_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Absolute error of depth maps, over the pixels with a depth.

    Args:
        prediction: Depths, shape ``[N, 1, H, W]``. Values at pixels without a depth change
            nothing, be they NaN.
        target: Depths, any floating dtype, shape ``[N, 1, H, W]``; 0 where there is none.

    Returns:
        The mean in the unit of the target, scalar; 0 with zero gradients when no pixel has a depth.
    """
    valid = target != 0
    difference = torch.where(valid, prediction, 0) - target.to(prediction.dtype)
    return _masked_mean(difference.abs(), valid)


def num_with_depth(target: Tensor) -> Tensor:
    """Number of pixels that :func:`depth_l1` averages over.

    Args:
        target: Depths, shape ``[N, 1, H, W]``; 0 where there is none.

    Returns:
        The number, float64, scalar, on the device of the target.
    """
    return (target != 0).sum(dtype=torch.float64)


def normal_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    r"""One minus the cosine between surface normals, over the pixels with a normal.

    .. math:: 1 - \frac{1}{P} \sum_p \langle \hat n_p / \lVert \hat n_p \rVert, n_p \rangle

    The targets are taken as they are: of unit length, they make it a cosine.

    Args:
        prediction: Vectors of any length, shape ``[N, 3, H, W]``; the zero vector has cosine 0.
            Below a length of 1e-6 the cosine shrinks with it, which bounds the gradient. Values at
            pixels without a normal change nothing, be they NaN.
        target: Unit normals, any floating dtype, shape ``[N, 3, H, W]``; all three components 0
            where there is none.

    Returns:
        The mean, in [0, 2], scalar; 0 with zero gradients when no pixel has a normal.
    """
    valid = _with_normal(target)
    directions = F.normalize(torch.where(valid, prediction, 0), dim=1, eps=1e-6)
    cosines = (directions * target.to(prediction.dtype)).sum(1, keepdim=True)
    return _masked_mean(1 - cosines, valid)


def num_with_normal(target: Tensor) -> Tensor:
    """Number of pixels that :func:`normal_cosine` averages over.

    Args:
        target: Normals, shape ``[N, 3, H, W]``; all three components 0 where there is none.

    Returns:
        The number, float64, scalar, on the device of the target.
    """
    return _with_normal(target).sum(dtype=torch.float64)


NONNEGATIVE = frozenset(
    (
        cross_entropy,
        binary_cross_entropy,
        mean_squared_error,
        segmentation_cross_entropy,
        depth_l1,
        normal_cosine,
    )
)
"""Losses that are never negative: a geometric mean over tasks can rank epochs by them."""


def _with_normal(target: Tensor) -> Tensor:
    return (target != 0).any(1, keepdim=True)


def _masked_mean(terms: Tensor, valid: Tensor) -> Tensor:
    """Mean of the valid terms, 0 without any.

    Masks instead of indexing: the number of valid terms stays on the device. The terms must be
    finite where they are not valid, or their gradient is NaN: 0 times infinity.
    """
    return torch.where(valid, terms, 0).sum() / valid.sum().clamp(min=1)
