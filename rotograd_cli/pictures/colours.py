"""Colours of maps: a palette for classes, scales for numbers, directions for normals."""

import colorsys

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
"""A picture, shape ``[H, W, 3]``."""
UNLABELLED = (128, 128, 128)
"""Pixels without a label."""
RIGHT = (236, 236, 236)
WRONG = (203, 36, 49)

_GOLDEN = 0.618033988749895
_SCALES = {
    # ten anchors each of matplotlib's colour maps of these names (CC0)
    "viridis": "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
    "inferno": "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4",
}


def palette(num_classes: int) -> NDArray[np.uint8]:
    """Return one colour per class, the same for a class whatever the number of classes.

    Hues are a golden ratio apart, so that neighbours differ, in three steps of lightness.

    Returns:
        Shape ``[num_classes, 3]``.
    """
    steps = ((0.55, 0.95), (0.75, 0.70), (0.35, 0.85))
    colours = [
        colorsys.hsv_to_rgb((0.58 + index * _GOLDEN) % 1, *steps[index % len(steps)])
        for index in range(num_classes)
    ]
    result: NDArray[np.uint8] = np.rint(255 * np.array(colours).reshape(-1, 3)).astype(np.uint8)
    return result


def paint_classes(classes: NDArray[np.int64], num_classes: int) -> RGB:
    """Paint a map of classes; what is no class is grey.

    Args:
        classes: Shape ``[H, W]``.
        num_classes: Number of classes.
    """
    is_class = (classes >= 0) & (classes < num_classes)
    painted = palette(num_classes)[np.where(is_class, classes, 0)]
    return np.where(is_class[..., None], painted, np.array(UNLABELLED, np.uint8))


def scale_colours(scale: str) -> NDArray[np.uint8]:
    """Return the anchors of a scale from low to high, shape ``[10, 3]``."""
    return np.array([list(bytes.fromhex(colour)) for colour in _SCALES[scale].split()], np.uint8)


def paint_numbers(values: NDArray[np.floating], low: float, high: float, scale: str) -> RGB:
    """Paint a map of numbers by a colour scale; what is NaN is grey.

    Args:
        values: Shape ``[H, W]``; beyond the ends they take the colour of the end.
        low: Value at the lower end.
        high: Value at the upper end.
        scale: ``viridis`` or ``inferno``.
    """
    anchors = scale_colours(scale)
    span = high - low if high > low else 1.0
    position = np.clip((values - low) / span, 0, 1) * (len(anchors) - 1)
    known = ~np.isnan(position)
    places = np.arange(len(anchors))
    channels = [np.interp(np.where(known, position, 0), places, anchors[:, c]) for c in range(3)]
    painted = np.rint(np.stack(channels, -1)).astype(np.uint8)
    return np.where(known[..., None], painted, np.array(UNLABELLED, np.uint8))


def paint_normals(normals: NDArray[np.floating]) -> RGB:
    """Paint directions: -1 to 1 of x, y and z as red, green and blue; what is NaN is grey.

    Args:
        normals: Shape ``[3, H, W]``, of any length but zero.
    """
    length = np.linalg.norm(normals, axis=0)
    known = length > 0
    unit = np.where(known, normals, 0) / np.where(known, length, 1)
    painted = np.rint(255 * (unit.transpose(1, 2, 0) + 1) / 2).astype(np.uint8)
    return np.where(known[..., None], painted, np.array(UNLABELLED, np.uint8))


def paint_right(right: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> RGB:
    """Paint wrong pixels red, right ones light, those without a label grey."""
    painted = np.where(right[..., None], np.array(RIGHT, np.uint8), np.array(WRONG, np.uint8))
    return np.where(labelled[..., None], painted, np.array(UNLABELLED, np.uint8))
