"""Settings of runs as flat keys: which of them differ."""

from collections.abc import Iterable, Mapping
from typing import Any

SELECTED_BY_AUTO = ("geomean_loss", "relative_loss")
"""What ``train.select=val/auto`` stands for on its split, by the data set's losses."""
NO_SETTING = ("seed", "tasks", "paths", "logger", "device", "deterministic", "tags")
"""Sections that do not make another row: where a run ran and wrote, its seed, its one task."""


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of a configuration by dotted key, lists as tuples.

    Examples:
        >>> flat({"train": {"epochs": 3}, "tags": ["a"], "heads": {}})
        {'train.epochs': 3, 'tags': ('a',)}
    """
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = tuple(value) if isinstance(value, list) else value
    return leaves


def setting(config: Mapping[str, Any], select: str | None = None) -> dict[str, Any]:
    """What makes a run's row: its configuration without :data:`NO_SETTING`, flat.

    Args:
        config: Configuration.
        select: Metric that ``train.select=val/auto`` turned out to be, where the run says it.

    Returns:
        Values by dotted key.
    """
    result = flat({key: value for key, value in config.items() if key not in NO_SETTING})
    if str(result.get("train.select")).endswith("/auto"):
        split = str(result["train.select"]).partition("/")[0]
        result["train.select"] = select or f"{split}/{SELECTED_BY_AUTO[0]}"
    return result


def varying(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Keys in which settings differ, in order; a key that one of them lacks differs too.

    Examples:
        >>> varying([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}])
        ['b', 'c']
    """
    listed = list(settings)
    keys = dict.fromkeys(key for found in listed for key in found)
    first = listed[0] if listed else {}
    return [
        key
        for key in keys
        if any((key in found, found.get(key)) != (key in first, first.get(key)) for found in listed)
    ]
