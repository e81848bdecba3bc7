"""Ranges and choices of options, declared in the annotation of the parameter.

``alpha: Annotated[float, Ge(0)]`` and ``mode: Literal["min", "max"]`` say what is accepted, for
YAML files and for Python callers alike. In a schema of OmegaConf, which takes no ``Literal``, the
latter is ``Annotated[str, Literal["min", "max"]]``.
"""

import functools
import inspect
import math
import operator
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from rotograd_cli.errors import ConfigError

AtLeastOne = Annotated[int, Ge(1)]
P = ParamSpec("P")
T = TypeVar("T")

_COMPARISONS: dict[type, tuple[str, Callable[[Any, Any], bool], str]] = {
    Ge: ("ge", operator.ge, "at least"),
    Gt: ("gt", operator.gt, "more than"),
    Le: ("le", operator.le, "at most"),
    Lt: ("lt", operator.lt, "less than"),
}

_WORDS = {int: "integer", float: "number", str: "text", bool: "true | false", type(None): "null"}


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function refuse arguments outside what its annotations declare.

    Args:
        function: A constructor, usually.

    Returns:
        The function; it raises :class:`ConfigError` for an argument out of range.

    Examples:
        >>> from typing import Annotated
        >>> @checked
        ... def root(x: Annotated[float, Ge(0)]) -> float:
        ...     return x**0.5
        >>> root(-1)
        Traceback (most recent call last):
        rotograd_cli.errors.ConfigError: `x` must be at least 0, got -1.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        hints = hints_of(function)
        for name, value in signature.bind_partial(*args, **kwargs).arguments.items():
            check_range(name, value, hints.get(name))
        return function(*args, **kwargs)

    return wrapper


@functools.cache
def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return annotations by parameter, read where they are strings; none if one has no meaning."""
    with suppress(NameError, TypeError, AttributeError):
        return typing.get_type_hints(function, include_extras=True)
    return {}


def check_range(name: str, value: Any, annotation: Any, *, in_list: bool = False) -> None:
    """Refuse a value outside what an annotation declares; metadata that is no range is skipped.

    Args:
        name: Key, as the message names it.
        value: The value.
        annotation: What is declared.
        in_list: Whether the value is an item of the list that the key takes.

    Raises:
        ConfigError: If it is.
        TypeError: If it cannot be compared with a bound.
    """
    if get_origin(annotation) is Literal and value not in get_args(annotation):
        choices = get_args(annotation)
        words = " or ".join(map(str, choices))
        remedy = f"'{name}=[{choices[0]}]'" if in_list else f"{name}={choices[0]}"
        raise ConfigError(f"`{name}` must be {words}, got {value!r}; {remedy}.")
    if get_origin(annotation) is Sequence and isinstance(value, Sequence):
        for item in value:
            check_range(name, item, get_args(annotation)[0], in_list=True)
    if get_origin(annotation) is Mapping and isinstance(value, Mapping):
        for key, item in value.items():
            check_range(f"{name}.{key}", item, get_args(annotation)[1])
    if get_origin(annotation) in (typing.Union, UnionType) and value is not None:
        for alternative in get_args(annotation):
            check_range(name, value, alternative)
    for bound in getattr(annotation, "__metadata__", ()):
        if get_origin(bound) is Literal:
            check_range(name, value, bound)
            continue
        if type(bound) not in _COMPARISONS:
            continue
        attribute, holds, words = _COMPARISONS[type(bound)]
        limit = getattr(bound, attribute)
        if not holds(value, limit):  # NaN too
            raise ConfigError(f"`{name}` must be {words} {limit}, got {value}.")


def check_fields(record: Any, prefix: str = "") -> None:
    """Refuse values of a dataclass outside what the annotations of its fields declare.

    Args:
        record: The dataclass; sections may be dataclasses.
        prefix: Put before every name in messages, e.g. ``table.``.

    Raises:
        ConfigError: If a value is out of range.
    """
    hints = typing.get_type_hints(type(record), include_extras=True)
    for field in fields(record):
        value = getattr(record, field.name)
        name = f"{prefix}{field.name}"
        if is_dataclass(value):
            check_fields(value, f"{name}.")
        else:
            check_range(name, value, hints[field.name])


def in_words(annotation: Any) -> str:
    """Return what an annotation accepts, for a reader; nothing where it says nothing.

    Examples:
        >>> in_words(Annotated[float, Gt(0), Lt(1)] | None)
        'number, more than 0, less than 1, or null'
        >>> in_words(Sequence[Literal["mean", "first"]])
        'list of mean | first'
    """
    origin = get_origin(annotation)
    parts = get_args(annotation)
    if origin in (typing.Union, UnionType):
        return ", or ".join(filter(None, map(in_words, parts)))
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin is Annotated:
        choices = [in_words(each) for each in parts if get_origin(each) is Literal]
        bounds = [each for each in parts if type(each) in _COMPARISONS and each != Lt(math.inf)]
        limits = [(_COMPARISONS[type(each)], each) for each in bounds]
        phrases = [f"{words} {getattr(each, name)}" for (name, _, words), each in limits]
        return choices[0] if choices else ", ".join([in_words(parts[0]), *phrases])
    if origin in (list, tuple, Sequence):
        return f"list of {in_words(parts[0])}".removesuffix(" of ")
    return "mapping" if origin in (dict, Mapping) else _WORDS.get(annotation, "")
