"""Settings of runs as flat keys: which of them differ."""

from collections.abc import Iterable, Mapping
from typing import Any

from rotograd_cli.runs.identity import setting
from rotograd_cli.tables.results import Results


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


def differing_settings(results: Results) -> list[str]:
    """Sentences that name what differs between the rows besides the method.

    Args:
        results: Results whose summaries have ``config``; others are passed over.

    Returns:
        One sentence per key, with the values and who has them.
    """
    settings = {
        (row, seed, tuple(s.get("tasks", ()))): setting(s["config"], s.get("select"))
        for row, seeds in results.items()
        for seed, result in seeds.items()
        for s in result.summaries
        if "config" in s
    }
    keys = [key for key in varying(settings.values()) if not key.startswith("method.")]
    return [f"{key}: {_who(key, settings)}." for key in keys]


def _who(key: str, settings: Mapping[tuple[str, int, Any], Mapping[str, Any]]) -> str:
    rows: dict[str, list[str]] = {}
    for (row, *_), found in settings.items():
        names = rows.setdefault(str(found.get(key, "none")), [])
        if row not in names:
            names.append(row)
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in rows.items())
