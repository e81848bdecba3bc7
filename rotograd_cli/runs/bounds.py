"""Bounds of options, read from their annotations (``Annotated[int, Ge(1)]``)."""

import operator
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from rotograd_cli.errors import ConfigError

# attributes of the classes of annotated_types, with their test and its wording
_BOUNDS = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "above"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "below"),
}


def check_bounds(record: Any, prefix: str = "") -> None:
    """Refuse numbers of a dataclass that are outside of the bounds of its fields.

    Args:
        record: The dataclass; sections may be dataclasses.
        prefix: Put before every name in messages, e.g. ``table.``.

    Raises:
        ConfigError: If a number is out of bounds; NaN is within none.
    """
    hints = get_type_hints(type(record), include_extras=True)
    for field in fields(record):
        value = getattr(record, field.name)
        name = f"{prefix}{field.name}"
        if is_dataclass(value):
            check_bounds(value, f"{name}.")
        elif isinstance(value, (int, float)):
            _check_number(value, hints[field.name], name)


def _check_number(value: float, annotation: Any, name: str) -> None:
    bounds = list(_bounds(annotation))
    if all(_BOUNDS[kind][0](value, limit) for kind, limit in bounds):
        return
    required = " and ".join(f"{_BOUNDS[kind][1]} {limit}" for kind, limit in bounds)
    null = " or null" if type(None) in get_args(annotation) else ""
    raise ConfigError(f"`{name}` must be {required}{null}, got {value}.")


def _bounds(annotation: Any) -> Iterator[tuple[str, float]]:
    """Kind and limit of the bounds of a type, or of the members of a union."""
    if get_origin(annotation) is not Annotated:
        for member in get_args(annotation):
            yield from _bounds(member)
        return
    for item in annotation.__metadata__:
        limits = {kind: getattr(item, kind, None) for kind in _BOUNDS}
        yield from ((kind, limit) for kind, limit in limits.items() if limit is not None)
