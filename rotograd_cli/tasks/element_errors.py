r"""Errors of every element with a label: what the metrics of this package average.

All functions take predictions and targets with the examples first, and return V errors of every
element, shape ``[V, N, M]``, and whether the element counts, shape ``[N, M]``; M is the number of
elements of an example. Errors of elements that do not count are arbitrary. A target that is neither
a label nor the sign for none has the error NaN. Everything stays on the device: masks instead of
indexing.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rotograd_cli.tasks import labels

Errors = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A function of this module, from predictions and targets to errors and what counts."""
THRESHOLDS = (11.25, 22.5, 30.0)
"""Angles in degrees whose share below is reported."""


def class_hits(prediction: Tensor, target: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Whether the predicted class is the target.

    Args:
        prediction: Predicted classes, int64, shape ``[N, ...]``.
        target: Classes, of the same shape; -1 where there is none.
        num_classes: Number of classes.

    Returns:
        1 or 0, NaN where the target is no class, shape ``[1, N, M]``, and whether it is labelled.
    """
    prediction, target = _rows(prediction, target)
    hit = (prediction == target).double()
    wrong = labels.no_class(target, num_classes)
    return torch.where(wrong, math.nan, hit).unsqueeze(0), labels.is_labelled(target)


def flag_counts(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """What F1 is made of.

    Args:
        prediction: 0 or 1, shape ``[N, ...]``.
        target: 0 or 1, any dtype, of the same shape; -1 where there is none.

    Returns:
        Whether both are 1, whether the prediction is, whether the target is, NaN where the target
        is neither 0 nor 1, shape ``[3, N, M]``, and whether it is labelled.
    """
    prediction, target = _rows(prediction, target)
    truth = target.double()
    fraction = labels.no_probability(target, 1) | (truth.frac() != 0)
    counts = torch.stack((prediction * truth, prediction.double(), truth))
    return torch.where(fraction, math.nan, counts), labels.is_labelled(target)


def squared_errors(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Squared differences in float64.

    Args:
        prediction: Numbers, float64, shape ``[N, ...]``.
        target: Numbers of the same shape; NaN where there is none.

    Returns:
        Squares, shape ``[1, N, M]``, and whether there is a target.
    """
    prediction, target = _rows(prediction, target)
    return (prediction - target.double()).square().unsqueeze(0), labels.is_number(target)


def _rows(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both with one row per example."""
    labels.check_shapes(prediction, target)
    return prediction.reshape(len(prediction), -1), target.reshape(len(target), -1)


def depth_errors(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute and relative error of every pixel with a depth.

    Args:
        prediction: Depths, shape ``[N, 1, H, W]``.
        target: Depths, any floating dtype, shape ``[N, 1, H, W]``; 0 or NaN where there is none.

    Returns:
        abs(p - t) and abs(p - t) / t, shape ``[2, N, H * W]``, and whether there is a depth.
    """
    prediction, target = (x.flatten(1) for x in _comparable(prediction, target))
    valid = labels.has_depth(target)
    error = (prediction - target).abs()
    return torch.stack((error, error / target)), valid


def accurate_angles(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    r"""Angle between the two vectors of every pixel, and whether it lies below each threshold.

    The angle is :math:`\operatorname{atan2}(\lVert p \times t \rVert, \langle p, t \rangle)`, which
    keeps its accuracy near 0 and 180 degrees, where the arc cosine loses half of the digits.

    Args:
        prediction: Vectors of any length, shape ``[N, 3, H, W]``.
        target: Vectors of any length, shape ``[N, 3, H, W]``; zero where there is no normal.

    Returns:
        The angle in degrees, then 1 or 0 for each of ``THRESHOLDS``, shape ``[4, N, H * W]``, and
        whether the target is not zero. A zero prediction is at 90 degrees of everything.
    """
    prediction, target = (x.flatten(2) for x in _comparable(prediction, target))
    valid = labels.has_normal(target).squeeze(1)
    p, t = _directions(prediction), _directions(target)
    cross = torch.linalg.cross(p, t, dim=1)
    angle = torch.atan2(torch.linalg.vector_norm(cross, dim=1), (p * t).sum(1)).rad2deg()
    nowhere = (prediction == 0).all(1)
    return _with_shares(torch.where(nowhere, 90.0, angle)), valid


def mtan_angles(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    r"""Angles as MTAN computes them, and whether each lies below each threshold.

    The angle is :math:`\arccos` of the normalised prediction times the target as it is, clamped to
    [-1, 1]. One departure: a pixel counts when any component of its target is not 0; in MTAN's code
    when their sum is not 0.

    Args:
        prediction: Vectors of any length, shape ``[N, 3, H, W]``.
        target: Unit vectors, shape ``[N, 3, H, W]``; zero where there is no normal.

    Returns:
        As :func:`accurate_angles`.
    """
    prediction, target = (x.flatten(2) for x in _comparable(prediction, target))
    cosine = (_directions(prediction) * target).sum(1)
    return _with_shares(cosine.clamp(-1, 1).acos().rad2deg()), labels.has_normal(target).squeeze(1)


def _comparable(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the prediction's dtype, at least float32: half precision is for storage alone."""
    labels.check_shapes(prediction, target)
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return prediction.to(dtype), target.to(dtype)


def _directions(vectors: Tensor) -> Tensor:
    """Unit vectors along the second axis; zero stays zero. Lengths neither over- nor underflow."""
    largest = vectors.abs().amax(1, keepdim=True)
    scaled = vectors / torch.where(largest == 0, 1, largest)
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / torch.where(largest == 0, 1, length)


def _with_shares(angle: Tensor) -> Tensor:
    return torch.stack((angle, *((angle < limit).to(angle.dtype) for limit in THRESHOLDS)))
