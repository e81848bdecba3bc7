"""A confusion matrix as a picture."""

import numpy as np
from numpy.typing import NDArray

from rotograd_cli.pictures.colours import RGB, paint_numbers

MAX_WORDS = 20
"""Classes up to which cells say their percentage."""
_CELL = 36
_SMALL_CELL = 8
_MARGIN = 36
_CAPTION = 32
_WIDTH = 180
"""Least width, which the caption needs."""
_LEAST_WORD = 0.5
"""Percentage from which a cell has a number."""
_LIGHT = 60.0
"""Percentage above which the colour of a cell is light."""


def draw_confusion(counts: NDArray[np.int64]) -> RGB:
    """Draw a matrix: true classes in rows, predicted ones in columns.

    The colour of a cell, and up to ``MAX_WORDS`` classes its number, is the share in percent of the
    row. A class that does not occur has a grey row.

    Args:
        counts: Elements by true and predicted class, shape ``[C, C]``.

    Returns:
        uint8, shape ``[H, W, 3]``.
    """
    totals = counts.sum(1, keepdims=True)
    shares = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    small = paint_numbers(shares, 0.0, 100.0, "viridis")
    size = _CELL if len(counts) <= MAX_WORDS else _SMALL_CELL
    cells = small.repeat(size, 0).repeat(size, 1)
    return _labelled(cells, shares) if len(counts) <= MAX_WORDS else cells


def _labelled(cells: RGB, shares: NDArray[np.float64]) -> RGB:
    from PIL import Image, ImageDraw

    left = _MARGIN
    top = _MARGIN + _CAPTION
    canvas = Image.new("RGB", (max(left + len(cells), _WIDTH), top + len(cells)), "white")
    canvas.paste(Image.fromarray(cells), (left, top))
    draw = ImageDraw.Draw(canvas)
    draw.text((2, 2), "rows: truth, in percent\ncolumns: prediction", "black")
    centres = range(_CELL // 2, len(cells), _CELL)
    for k, centre in enumerate(centres):
        draw.text((left // 2, top + centre), str(k), "black", anchor="mm")
        draw.text((left + centre, top - _MARGIN // 2), str(k), "black", anchor="mm")
    for y, row in zip(centres, shares, strict=True):
        for x, share in zip(centres, row, strict=True):
            if share >= _LEAST_WORD:
                ink = "black" if share > _LIGHT else "white"
                draw.text((left + x, top + y), f"{share:.0f}", ink, anchor="mm")
    return np.asarray(canvas)
