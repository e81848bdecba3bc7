"""Errors raised in code of the user's: what they say, and the line they come from."""

import contextlib
import traceback
from pathlib import Path

import torch

from rotograd_cli.errors import first_line

_NOT_OF_USER = (
    Path(__file__).parent,
    Path(torch.__file__).parent,
    Path(contextlib.__file__),  # the frame of a function that is decorated with a context
)


def describe(error: BaseException) -> str:
    """Return class and first line of an error, and the line of the user's code it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    of_user = [frame for frame in frames if _is_of_user(Path(frame.filename))]
    place = f", {Path(of_user[-1].filename).name} line {of_user[-1].lineno}" if of_user else ""
    text = f": {first_line(error).rstrip('.')}" if str(error) else ""
    return f"{type(error).__name__}{text}{place}"


def _is_of_user(file: Path) -> bool:
    return file.suffix == ".py" and not any(map(file.is_relative_to, _NOT_OF_USER))
