"""What ``summary.json`` holds: checked, because the file may be damaged or somebody else's."""

import math
from collections.abc import Mapping
from typing import Any

_NUMBER = (int, float, type(None))
_TEXT = (str, type(None))
_LARGEST = 2**63
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
    "num_examples": {str: int},
    "num_evaluated": {str: int},
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


def selected_value(summary: Mapping[str, Any] | None) -> float | None:
    """Value of a run's selection metric at its selected epoch.

    Args:
        summary: Content of ``summary.json``; None where a run wrote nothing.

    Returns:
        The value, by which runs may be compared; None where there is nothing to compare, because
        the run did not finish or the value is infinite, NaN or missing.
    """
    if summary is None or summary.get("status") != "finished":
        return None
    value = summary.get("metrics", {}).get(summary.get("select"))
    return float(value) if value is not None and math.isfinite(value) else None


def outcome(summary: Mapping[str, Any]) -> str:
    """What became of a run: its status, or ``no finite val/geomean_loss``.

    A version that compared nothing tested such a run's first epoch, and called it finished.
    """
    status = str(summary.get("status", "no status"))
    if status == "finished" and "select" in summary and selected_value(summary) is None:
        return f"no finite {summary['select']}"
    return status


def is_evaluation(record: object) -> bool:
    """Whether a line of ``metrics.jsonl`` has metrics of an evaluation."""
    if not isinstance(record, dict) or not _fits(record, {str: _NUMBER}):
        return False
    return any(key.startswith("val/") for key in record)


def _fits(value: object, form: Any) -> bool:
    if isinstance(form, list):
        return isinstance(value, list) and all(_fits(item, form[0]) for item in value)
    if not isinstance(form, dict):
        is_huge = isinstance(value, int) and abs(value) > _LARGEST  # no float holds it
        return isinstance(value, form) and not is_huge
    if not isinstance(value, dict):
        return False
    if str in form:
        return all(_fits(item, form[str]) for item in value.values())
    return all(key in value and _fits(value[key], part) for key, part in form.items())
