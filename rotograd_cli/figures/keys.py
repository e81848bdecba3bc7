"""Which keys of the records a figure of curves draws."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from rotograd_cli.errors import ConfigError, listed
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.tables.rows import Rows

MAX_DEFAULT = 12
"""Panels that are drawn without being asked for."""
MAX_PANELS = 48
"""Panels that a figure can hold."""


def default_keys(rows: Rows) -> tuple[list[str], list[str]]:
    """Return what is drawn unless asked otherwise, and notes.

    Args:
        rows: Rows.

    Returns:
        On the validation split, the key by which epochs are selected and the leading metric of
        every task (the loss of a task without one). Where these are more than ``MAX_DEFAULT``,
        statistics over tasks replace those of the tasks.

    Raises:
        ConfigError: If no run was evaluated yet.
    """
    selected = [str(history.run.summary.select) for history in rows.histories]
    by_task = [key for task in rows.tasks for key in _leading_keys(rows, task)]
    keys = [key for key in dict.fromkeys([*selected, *by_task]) if key in set(rows.keys)]
    notes = []
    if not rows.have_same_tasks:
        left_out = [key for key in keys if is_over_tasks(key)]
        notes = [f"{key}: left out, for the runs have different tasks." for key in left_out]
        keys = [key for key in keys if key not in left_out]
    if not keys:
        raise ConfigError(
            f"`y` needs a value, for {rows.histories[0].run.folder} has no evaluation yet; "
            "y='train/*/loss' draws the losses of training."
        )
    if len(keys) <= MAX_DEFAULT:
        return keys, notes
    return _fewer(rows, keys), [*notes, f"{_why_fewer(rows)}; y='val/*/loss' draws every task."]


def _leading_keys(rows: Rows, task: str) -> list[str]:
    """Return the leading metric of a task; of runs with several protocols, that of each."""
    recorded = set(rows.keys)
    leading = []
    for history in rows.histories:
        of_task = [k for k in history.run.summary.metric_specs if MetricKey.parse(k).task == task]
        leading += [f"val/{key}" for key in of_task if f"val/{key}" in recorded][:1]
    return list(dict.fromkeys(leading)) or [f"val/{task}/loss"]


def _statistics(rows: Rows) -> list[str]:
    names = dict.fromkeys(k for h in rows.histories for k in h.run.summary.statistic_specs)
    keys = set(rows.keys)
    return [f"val/{name}" for name in names if f"val/{name}" in keys and rows.have_same_tasks]


def _fewer(rows: Rows, keys: Sequence[str]) -> list[str]:
    over_tasks = [key for key in keys if is_over_tasks(key)]
    return [*over_tasks, *_statistics(rows)] if _statistics(rows) else list(keys[:MAX_DEFAULT])


def _why_fewer(rows: Rows) -> str:
    count = len(rows.tasks)
    if _statistics(rows):
        return f"{count} tasks: statistics over them are drawn"
    return f"{count} tasks: the first are drawn"


def matching_keys(rows: Rows, patterns: Sequence[str]) -> list[str]:
    """Return the keys that ``y`` names, in its order.

    Args:
        rows: Rows.
        patterns: Keys, or patterns with ``*`` and ``?``.

    Raises:
        ConfigError: If one names no key, they are too many, or one cannot be compared.
    """
    keys = dict.fromkeys(key for pattern in patterns for key in _named(rows, pattern))
    if len(keys) > MAX_PANELS:
        raise ConfigError(
            f"`y` must name at most {MAX_PANELS} keys, got {len(keys)}: {listed(list(keys))}; "
            "name fewer."
        )
    over_tasks = [key for key in keys if is_over_tasks(key)]
    if over_tasks and not rows.have_same_tasks:
        raise ConfigError(
            f"`y`={over_tasks[0]} is a number over all tasks, and the runs have different tasks; "
            "narrow `runs`, or choose a task's key."
        )
    return list(keys)


def _named(rows: Rows, pattern: str) -> list[str]:
    keys = rows.keys
    named = [pattern] if pattern in keys else [key for key in keys if fnmatchcase(key, pattern)]
    if named:
        return named
    close = difflib.get_close_matches(pattern, keys, n=3)
    remedy = f"did you mean {' or '.join(close)}?" if close else f"choose from {listed(keys, 12)}."
    raise ConfigError(f"`y` must be a key of the records, got {pattern!r}; {remedy}")


def is_over_tasks(key: str) -> bool:
    """Return whether a key is of all tasks together, such as ``val/geomean_loss``.

    Examples:
        >>> [is_over_tasks(key) for key in ("val/mean_f1", "val/a/f1", "train/lr", "step")]
        [True, False, False, False]
    """
    _, slash, name = key.partition("/")
    return bool(slash) and "/" not in name and not name.endswith("lr")
