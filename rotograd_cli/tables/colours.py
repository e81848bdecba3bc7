"""Colours of rows and tasks, the same in figures and reports.

The first eight are those of Okabe and Ito ("Color Universal Design", 2008), which readers with any
colour vision tell apart, with grey for the yellow, which is too light for lines on white. A method
has the same colour wherever it is drawn, and so has a task by its place in the order of tasks.
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
BROWN = "#8C564B"
OLIVE = "#A89A00"
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, GREY, BROWN, OLIVE)
ON_DARK = (
    *("#4A9BE8", "#E69F00", "#2FBF97", "#FF7F50", "#E88AC4"),
    *("#9BD8FF", "#F4F6FA", "#8A929E", "#B98A6E", "#D6C84A"),
)
"""The same on a dark page, in the same order: light enough, and black is white."""
DASHES = ("-", "--", ":", "-.")
OF_METHODS = {
    "Vanilla": BLACK,
    "RotateOnly": SKY,
    "RotoGrad": BLUE,
    "RotoGradNorm": GREEN,
    "PCGrad": ORANGE,
    "IMTL-G": VERMILION,
}


class LineStyle(NamedTuple):
    """Colour and dashes of a line."""

    color: str
    linestyle: str


def styles(labels: Sequence[str]) -> dict[str, LineStyle]:
    """Return a style per label, each another one up to 40 labels.

    A label that begins with the name of a method (``RotoGrad, lr=0.1``) has that method's colour
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
