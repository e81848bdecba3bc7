"""Errors a user can cause and fix.

Every message is one line that names the thing, the requirement, the value found and the remedy. The
command line prints that line and exits with :func:`exit_code`; a program that imports the package
catches either :class:`RotogradError` or the builtin that each class extends.
"""

import difflib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

DATA_ROOT = "paths.data_dir (or ROTOGRAD_DATA)"
"""How messages of data sets name the key of the data root; ``data_dir`` is that of a loaded run."""
CELL_FAILED = 1
WRONG_INPUT = 2
RUN_FAILED = 4


def exit_code(error: BaseException) -> int:
    """Exit code of a command that an error ended with one line.

    Args:
        error: What ended it.

    Returns:
        ``WRONG_INPUT``, or ``RUN_FAILED`` if it left :func:`run_under_way`.
    """
    code: int = vars(error).get("exit_code", WRONG_INPUT)
    return code


@contextmanager
def run_under_way() -> Iterator[None]:
    """Mark errors that leave this context as the failure of a run that had begun.

    Whatever their class, they are no wrong input: the command was accepted, and a run directory
    says what became of it.
    """
    try:
        yield
    except Exception as error:
        vars(error)["exit_code"] = RUN_FAILED
        raise


def one_line(text: str) -> str:
    """Text without line breaks; blanks inside a line, which may be part of a path, stay."""
    return " ".join(line.strip() for line in text.splitlines()).strip()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def suggested(*words: object) -> str:
    """Command of this package for a message, quoted so that a shell takes it as it is.

    Args:
        *words: Words after ``rotograd``.

    Returns:
        The command.

    Examples:
        >>> suggested("train", "resume=runs/Lauf 1")
        "rotograd train 'resume=runs/Lauf 1'"
    """
    return shlex.join(["rotograd", *map(str, words)])


def hydra_value(text: str) -> str:
    """Return a text as Hydra reads it after ``KEY=``: in quotes where it would read something else.

    Args:
        text: Any text.

    Returns:
        The text. In quotes, backslashes in front of a quote are doubled, as Hydra's grammar asks.

    Examples:
        >>> hydra_value("runs/a"), hydra_value("a b"), hydra_value("1e3")
        ('runs/a', '"a b"', '"1e3"')
    """
    is_plain = re.fullmatch(r"[A-Za-z/.][\w./+@-]*", text, re.ASCII)
    if is_plain and text.lower() not in ("null", "true", "false", "inf", "nan"):
        return text
    escaped = re.sub(r'(\\*)"', r"\1\1\"", text)
    escaped = re.sub(r"(\\+)\Z", r"\1\1", escaped)
    return f'"{escaped}"'


def override_value(value: Any) -> str:
    """Return a plain value as it is written after ``KEY=``.

    Examples:
        >>> [override_value(value) for value in (None, True, 1, "1", [0.5, "a"])]
        ['null', 'true', '1', '"1"', '[0.5,a]']
    """
    if isinstance(value, str):
        return hydra_value(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(override_value, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are.

    Args:
        names: Names.
        most: How many of them are shown.

    Examples:
        >>> listed(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    rest = len(names) - most
    more = f" and {rest:,} more" if rest > 0 else ""
    return ", ".join(names[:most]) + more


def suggest(name: str, names: Sequence[str], prefix: str = "") -> str:
    """Return the name that was probably meant as a remedy, or those that exist.

    Args:
        name: Name that does not exist.
        names: Names that exist.
        prefix: Put before every name.

    Returns:
        A clause such as ``did you mean train.epochs?``.
    """
    spellings = {choice.lower(): choice for choice in names}
    close = difflib.get_close_matches(name.lower(), spellings, n=1)
    if close:
        return f"did you mean {prefix}{spellings[close[0]]}?"
    if not names:
        return "leave it out, there are none."
    return f"choose from {listed([prefix + choice for choice in names], 20)}."


class RotogradError(Exception):
    """Base class of every error that is the input's fault, never the program's."""


class ConfigError(RotogradError, ValueError):
    """A configuration value is missing, unknown or out of range."""


class OccupiedError(ConfigError):
    """A folder for a run holds another run, or another process is training in it."""


class ShapeError(RotogradError, ValueError):
    """A tensor does not have the shape that the mathematics needs."""


class DatasetError(RotogradError, OSError):
    """A data file is missing, incomplete or corrupt."""


class CheckpointError(RotogradError, RuntimeError):
    """A checkpoint is missing, corrupt or belongs to another model."""


class NonFiniteError(RotogradError, ArithmeticError):
    """A loss or a gradient became infinite or NaN, and training cannot go on.

    Args:
        message: The line.
        losses: Task losses of the step by name, as far as they are known.
    """

    def __init__(self, message: str, *, losses: Mapping[str, float] | None = None) -> None:
        super().__init__(message)
        self.losses = dict(losses or {})


class SelectionError(RotogradError, ArithmeticError):
    """No epoch of a run can be selected: the selection value was never finite, or cannot rank."""


class BackwardError(RotogradError, RuntimeError):
    """``backward`` was called in a state in which there is nothing to differentiate."""


class RankError(RotogradError, RuntimeError):
    """The processes that train one model together cannot, or do not hold the same model."""


class Refusal(BaseException):
    """Carries an error through Hydra, whose callbacks and sweepers go on after exceptions.

    Args:
        error: What is raised in its place by the command.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error
