"""Errors raised in the user's code: one line that names their class and the line they come from."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from rotograd_cli.errors import ConfigError, RotogradError, first_line

_NOT_OF_USER = (
    Path(__file__).parent,
    Path(torch.__file__).parent,
    Path(contextlib.__file__),  # the frame of a function that is decorated with a context
)


@contextlib.contextmanager
def blamed(
    what: str | Callable[[Exception], str], remedy: str, place: str = "", *, files: bool = False
) -> Iterator[None]:
    """Inside, errors that are not meant for the user become one line.

    Args:
        what: What failed, the beginning of the line; or a function that tells it from the error.
        remedy: The end of the line.
        place: Put before the line, and before errors of this package that do not name it.
        files: Whether errors of the operating system are turned into a line too.

    Raises:
        ConfigError: With class, text and place of whatever else was raised. Running out of memory
            and errors of this package are left as they are.
    """
    prefix = f"{place}: " if place else ""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) or (isinstance(error, OSError) and not files):
            raise
        if not isinstance(error, RotogradError):
            beginning = what if isinstance(what, str) else what(error)
            raise ConfigError(f"{prefix}{beginning} ({describe(error)}); {remedy}.") from error
        if str(error).startswith(place):  # or there is none
            raise
        raise ConfigError(f"{prefix}{error}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is used up, on the host or on a device."""
    is_typed = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return is_typed or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def describe(error: BaseException) -> str:
    """Return class and first line of an error, and the line of the user's code it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    of_user = [frame for frame in frames if _is_of_user(Path(frame.filename))]
    place = f", {Path(of_user[-1].filename).name} line {of_user[-1].lineno}" if of_user else ""
    text = f": {first_line(error).rstrip('.')}" if str(error) else ""
    return f"{type(error).__name__}{text}{place}"


def _is_of_user(file: Path) -> bool:
    return file.suffix == ".py" and not any(map(file.is_relative_to, _NOT_OF_USER))
