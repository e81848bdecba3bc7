"""Colours of rows and tasks, which readers with any colour vision tell apart.

The colours are those of Okabe and Ito ("Color Universal Design", 2008) without the yellow, which
is too light for lines on white. A method has the same colour in every figure as far as they go.
"""

from collections.abc import Sequence
from typing import NamedTuple

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#999999"
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, GREY)
DASHES = ("-", "--", ":", "-.")
OF_METHODS = {
    "VanillaMTL": BLACK,
    "Vanilla": BLACK,
    "RotateOnly": SKY,
    "RotoGrad": BLUE,
    "RotoGradNorm": GREEN,
    "PCGrad": ORANGE,
    "IMTLG": VERMILION,
    "IMTL-G": VERMILION,
}


class LineStyle(NamedTuple):
    """Colour and dashes of a line."""

    color: str
    linestyle: str


def styles(labels: Sequence[str]) -> dict[str, LineStyle]:
    """Return a style per label, each another one up to 32 labels.

    A label that begins with the class of a method (``RotoGrad, lr=0.1``) has that method's colour
    if it is the first to do so; the others take the colours that are left, in order.
    """
    result: dict[str, LineStyle] = {}
    for label in labels:
        colour = OF_METHODS.get(label.split(",")[0])
        if colour is not None and LineStyle(colour, "-") not in result.values():
            result[label] = LineStyle(colour, "-")
    taken = set(result.values())
    every = (LineStyle(colour, dashes) for dashes in DASHES for colour in COLOURS)
    free = (style for style in every if style not in taken)
    for label in labels:
        if label not in result:
            result[label] = next(free, LineStyle(GREY, ":"))
    return {label: result[label] for label in labels}
