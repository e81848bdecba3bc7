"""Prepared rows of NYUv2: a frame in 1.3 MB instead of 3.5 MB, ready for the device."""

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from rotograd_cli.data.nyuv2.layout import HEIGHT, WIDTH, Kind
from rotograd_cli.data.prepared import Field
from rotograd_cli.data.stored import channels_first

FIELDS: dict[Kind, Field] = {
    "image": Field((HEIGHT, WIDTH, 3), "uint8"),
    "label": Field((HEIGHT, WIDTH), "int8"),
    "depth": Field((HEIGHT, WIDTH), "float16"),
    "normal": Field((HEIGHT, WIDTH, 3), "int16"),
}
_UNIT = 32767  # int16: half a step is 1.5e-5; float16 is off by up to 2.4e-4 near 1
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


def encode(frame: Mapping[Kind, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of a prepared row.

    Errors: an image in steps of 1/255 is exact (others are off by up to 1/510), labels are exact,
    a depth is off by up to 1/2048 of itself (1 mm from 2 to 4 m, 4 mm from 8 to 16 m), a component
    of a normal by up to 1/65534, which turns a unit vector by at most 0.0016 degrees. What is 0 (no
    depth, no normal) stays 0, and nothing else becomes 0.

    Args:
        frame: Arrays as :meth:`Layout.read` returns them.
    """
    return {kind: _ENCODERS[kind](array) for kind, array in frame.items()}


def _bytes(image: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return result


def _half(depth: np.ndarray) -> np.ndarray:
    result: np.ndarray = depth[..., 0].astype(np.float16)
    result[(result == 0) & (depth[..., 0] > 0)] = _SMALLEST
    return result


def _fixed_point(normals: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.rint(np.clip(normals, -1, 1) * _UNIT).astype(np.int16)
    lost = (normals != 0).any(-1) & (result == 0).all(-1)
    if lost.any():  # shorter than half a step: the smallest vector in that direction
        largest = np.argmax(np.abs(normals[lost]), axis=-1)
        short = np.zeros((len(largest), 3), np.int16)
        rows = np.arange(len(largest))
        short[rows, largest] = np.sign(normals[lost][rows, largest]).astype(np.int16)
        result[lost] = short
    return result


_ENCODERS: dict[Kind, Callable[[np.ndarray], np.ndarray]] = {
    "image": _bytes,
    "label": lambda label: label.astype(np.int8),
    "depth": _half,
    "normal": _fixed_point,
}


def decode_image(rows: Tensor) -> Tensor:
    """Images in [0, 1], float32, shape ``[N, 3, H, W]``, as MTAN feeds them: not standardised."""
    return channels_first(rows) / 255


def decode_label(rows: Tensor) -> Tensor:
    """Classes, int64, shape ``[N, H, W]``; -1 is void."""
    return rows.long()


def decode_depth(rows: Tensor) -> Tensor:
    """Depth in metres, float32, shape ``[N, 1, H, W]``; 0 where there is none."""
    return rows.float().unsqueeze(1)


def decode_normal(rows: Tensor) -> Tensor:
    """Normals, float32, shape ``[N, 3, H, W]``; 0 where there is none."""
    return channels_first(rows) / _UNIT
