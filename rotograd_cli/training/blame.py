"""A failure inside somebody's component becomes one line that names the component and the place."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from rotograd_cli.errors import ConfigError, RotogradError

_PACKAGE = Path(__file__).parents[1]
_TORCH = Path(torch.__file__).parent


@contextmanager
def blamed(what: str | Callable[[Exception], str], remedy: str) -> Iterator[None]:
    """Inside, errors that are not meant for the user become one line.

    Args:
        what: What failed, the beginning of the line; or a function that tells it from the error.
        remedy: The end of the line.

    Raises:
        ConfigError: With class, text and place of whatever else was raised. Running out of memory,
            errors of files and those of this package are left as they are.
    """
    try:
        yield
    except (RotogradError, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        beginning = what if isinstance(what, str) else what(error)
        raise ConfigError(f"{beginning} ({describe(error)}); {remedy}.") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, on the host or on a device."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def describe(error: Exception) -> str:
    """Class and first line of an error, and the line of the user's code that it comes from."""
    text = (str(error).splitlines() or [""])[0].rstrip(".")
    frames = traceback.extract_tb(error.__traceback__)
    of_user = [frame for frame in frames if _is_of_user(Path(frame.filename))]
    place = f", {Path(of_user[-1].filename).name} line {of_user[-1].lineno}" if of_user else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


def _is_of_user(file: Path) -> bool:
    return file.suffix == ".py" and not any(file.is_relative_to(x) for x in (_PACKAGE, _TORCH))
