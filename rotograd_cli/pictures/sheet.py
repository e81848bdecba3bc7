"""Pictures as PNG, and several examples on one sheet. Pillow is imported where one is made."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from rotograd_cli.pictures.answers import Answer
from rotograd_cli.pictures.colours import RGB, WRONG
from rotograd_cli.pictures.examples import Example

MAX_LINES = 8
"""Answers below an example, beyond which those that are right are only counted."""
SMALLEST = 96
"""Pictures with a smaller side are enlarged by a whole number, in pixels."""
WIDTH = 1000
"""Width in pixels that a sheet fills with examples before it begins another row."""
_GAP = 8
_LINE = 14
_INK = (40, 40, 40)


def png(picture: RGB) -> bytes:
    """Return a picture as the content of a PNG file.

    Args:
        picture: uint8, shape ``[H, W, 3]``.
    """
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(picture)
    # without loss: a picture of few colours needs one byte per pixel
    few = image.getcolors(256)
    if few is not None:
        image = image.quantize(len(few), dither=Image.Dither.NONE)
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def jpeg(picture: RGB) -> bytes:
    """Return a picture as the content of a JPEG file: smaller than PNG, and not exact.

    Args:
        picture: uint8, shape ``[H, W, 3]``.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85, subsampling=0)
    return buffer.getvalue()


def sheet(examples: Sequence[Example]) -> RGB:
    """Put examples on one sheet, their pictures in a row and their answers below.

    Wrong answers are red, with the truth in parentheses.

    Args:
        examples: At least one.

    Returns:
        uint8, shape ``[H, W, 3]``.
    """
    tiles = [_tile(example) for example in examples]
    width = max(tile.shape[1] for tile in tiles)
    height = max(tile.shape[0] for tile in tiles)
    columns = min(max(1, WIDTH // width), len(tiles))
    rows = -(-len(tiles) // columns)
    result = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * height, index % columns * width
        result[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return result


def _tile(example: Example) -> RGB:
    from PIL import Image, ImageDraw

    panels = [(title, _enlarged(picture)) for title, picture in _panels(example)]
    lines = _lines(example.answers)
    widths = [panel.shape[1] for _, panel in panels]
    top = _LINE if len(panels) > 1 else 0
    tall = max((panel.shape[0] for _, panel in panels), default=0)
    text = max((6 * len(line) for line, _ in lines), default=0)
    width = max(sum(widths) + _GAP * len(widths), text + _GAP)
    canvas = Image.new("RGB", (width, top + tall + _LINE * len(lines) + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    left = 0
    for (title, panel), step in zip(panels, widths, strict=True):
        if top:
            draw.text((left, 0), title, _INK)
        canvas.paste(Image.fromarray(panel), (left, top))
        left += step + _GAP
    for index, (line, colour) in enumerate(lines):
        draw.text((0, top + tall + _LINE * index), line, colour)
    return np.asarray(canvas)


def _panels(example: Example) -> list[tuple[str, RGB]]:
    panels = [("input", example.image)]
    for maps in example.maps:
        panels.append((f"{maps.title}: truth", maps.truth))
        panels.append(("prediction", maps.prediction))
        panels.append(("error", maps.error))
    return [(title, picture) for title, picture in panels if picture is not None]


def _enlarged(picture: RGB) -> RGB:
    factor = -(-SMALLEST // min(picture.shape[:2]))
    return picture.repeat(factor, 0).repeat(factor, 1) if factor > 1 else picture


def _lines(answers: Sequence[Answer]) -> list[tuple[str, Any]]:
    shown = answers
    if len(answers) > MAX_LINES:
        shown = [each for each in answers if each.right is not True][: MAX_LINES - 1]
    lines: list[tuple[str, Any]] = [
        (str(each), WRONG if each.right is False else _INK) for each in shown
    ]
    if len(shown) < len(answers):
        right = sum(each.right is True for each in answers)
        lines.append((f"{right} of {len(answers)} right", _INK))
    return lines
