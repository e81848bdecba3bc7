"""Examples as pictures: the input, answers in words, maps beside the truth. Arrays, no window."""

from rotograd_cli.pictures.answers import Answer
from rotograd_cli.pictures.examples import Example, draw_examples
from rotograd_cli.pictures.kinds import Kind, kind_of
from rotograd_cli.pictures.maps import Maps
from rotograd_cli.pictures.sheet import jpeg, png, sheet

__all__ = ["Answer", "Example", "Kind", "Maps", "draw_examples", "jpeg", "kind_of", "png", "sheet"]
