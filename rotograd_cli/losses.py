"""Task losses: from predictions and targets of a batch to a scalar, averaged over the batch."""

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
