"""What ``summary.json`` holds: checked, because the file may be damaged or somebody else's."""

from collections.abc import Mapping
from typing import Any

_NUMBER = (int, float, type(None))
_TEXT = (str, type(None))
_SPECS = {str: {"better": _TEXT, "percent": bool}}
_FORMS: dict[str, Any] = {
    "status": str,
    "method": str,
    "data": str,
    "tasks": [str],
    "metric_specs": _SPECS,
    "statistic_specs": _SPECS,
    "seed": int,
    "protocol": str,
    "select": str,
    "overrides": [str],
    "notes": [str],
    "data_fingerprint": _TEXT,
    "num_threads": int,
    "device": str,
    "versions": {str: str},
    "commit": _TEXT,
    "command": [str],
    "started": _TEXT,
    "resumed_at_steps": [int],
    "error": str,
    "metrics": {str: _NUMBER},
    "selected_epoch": int,
    "epochs": int,
    "steps": int,
    "skipped_steps": int,
    "train_s": (int, float),
    "data_s": (int, float),
    "wall_s": (int, float),
}
"""Form by key: types, a list of a form, a mapping of all keys or of named ones."""

_IN_TABLES = ("method", "data", "tasks", "metric_specs", "metrics")
_IN_RUNS = (*_IN_TABLES, "seed", "protocol", "selected_epoch", "epochs", "train_s", "data_s")


def is_summary(content: object) -> bool:
    """Whether what a file holds can be a run's summary: every known key has values of its type."""
    if not isinstance(content, dict):
        return False
    known = all(_fits(content[key], form) for key, form in _FORMS.items() if key in content)
    names = content.get("metric_specs", {}) if known else {}
    return known and all(name.count("/") == 1 for name in names)


def is_finished(summary: Mapping[str, Any] | None, *, in_table: bool = False) -> bool:
    """Whether a run is finished, and has recorded what is shown of it.

    Args:
        summary: Content of ``summary.json``, None where there is none.
        in_table: What a table shows is enough; it lets runs of earlier versions in.
    """
    needed = _IN_TABLES if in_table else _IN_RUNS
    return (
        summary is not None
        and summary.get("status") == "finished"
        and all(key in summary for key in needed)
    )


def is_evaluation(record: object) -> bool:
    """Whether a line of ``metrics.jsonl`` has metrics of an evaluation."""
    if not isinstance(record, dict) or not _fits(record, {str: _NUMBER}):
        return False
    return any(key.startswith("val/") for key in record)


def _fits(value: object, form: Any) -> bool:
    if isinstance(form, list):
        return isinstance(value, list) and all(_fits(item, form[0]) for item in value)
    if not isinstance(form, dict):
        return isinstance(value, form)
    if not isinstance(value, dict):
        return False
    if str in form:
        return all(_fits(item, form[str]) for item in value.values())
    return all(key in value and _fits(value[key], part) for key, part in form.items())
