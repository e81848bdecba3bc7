"""A failure inside somebody's component becomes one line that names the component and the place."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from rotograd_cli.errors import ConfigError, RotogradError, first_line
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.tasks import Task

_PACKAGE = Path(__file__).parents[1]
_TORCH = Path(torch.__file__).parent


@contextmanager
def blamed(what: str | Callable[[Exception], str], remedy: str, place: str = "") -> Iterator[None]:
    """Inside, errors that are not meant for the user become one line.

    Args:
        what: What failed, the beginning of the line; or a function that tells it from the error.
        remedy: The end of the line.
        place: Put before the line, and before errors of this package that do not name it.

    Raises:
        ConfigError: With class, text and place of whatever else was raised. Running out of memory,
            errors of files and those of this package are left as they are.
    """
    prefix = f"{place}: " if place else ""
    try:
        yield
    except OSError:
        raise
    except RotogradError as error:
        if str(error).startswith(place):  # or there is none
            raise
        raise ConfigError(f"{prefix}{error}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        beginning = what if isinstance(what, str) else what(error)
        raise ConfigError(f"{prefix}{beginning} ({describe(error)}); {remedy}.") from error


def component_of(model: MultiTaskMethod, tasks: Sequence[Task]) -> Callable[[Exception], str]:
    """Return a function that tells from an error which component of a model was running."""
    owners = {id(model): "`method`", id(model.backbone): "`backbone`"}
    for task, head in zip(tasks, model.heads, strict=True):
        owners[id(head)] = f"the `head` of task {task.name!r}"

    def what(error: Exception) -> str:
        # outside of all modules are the losses that are computed at once
        return f"{_innermost(error, owners, 'the loss of the tasks with batchable=True')} fails"

    return what


def _innermost(error: Exception, owners: Mapping[int, str], otherwise: str) -> str:
    """Return the name of the last object that a method of was called, on the way to the error."""
    name = otherwise
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = owners.get(id(frame.f_locals.get("self")), name)
    return name


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is used up, on the host or on a device."""
    is_typed = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return is_typed or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def describe(error: Exception) -> str:
    """Return class and first line of an error, and the line of the user's code it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    of_user = [frame for frame in frames if _is_of_user(Path(frame.filename))]
    place = f", {Path(of_user[-1].filename).name} line {of_user[-1].lineno}" if of_user else ""
    text = f": {first_line(error).rstrip('.')}" if str(error) else ""
    return f"{type(error).__name__}{text}{place}"


def _is_of_user(file: Path) -> bool:
    return file.suffix == ".py" and not any(file.is_relative_to(x) for x in (_PACKAGE, _TORCH))
