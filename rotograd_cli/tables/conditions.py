"""What numbers were measured on: those of other data, protocols or examples are not compared."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PROTOCOL = "protocol of the metrics"
COMMON = ("data", PROTOCOL, "evaluated")
"""Conditions that every number depends on."""
TASKS = "tasks"
"""Condition of numbers over all tasks: their statistics, the geometric mean of the losses."""
WHOLE = "whole splits"

Conditions = Mapping[str, str]
"""A text by condition, :data:`COMMON` and :data:`TASKS`; equal conditions have equal texts."""


def conditions(summaries: Sequence[Mapping[str, Any]]) -> Conditions:
    """Under what conditions runs were measured together.

    Args:
        summaries: Of one run, or of the runs of single tasks that make one result.

    Returns:
        A text by condition.
    """
    found = [_of_run(summary) for summary in summaries]
    together = {key: " and ".join(dict.fromkeys(run[key] for run in found)) for key in COMMON}
    tasks = {task for summary in summaries for task in summary.get("tasks", ())}
    return {**together, TASKS: ", ".join(sorted(tasks))}


def alike(found: Iterable[Conditions], keys: Sequence[str]) -> bool:
    """Whether some conditions are the same everywhere."""
    return len({tuple(each[key] for key in keys) for each in found}) <= 1


def _of_run(summary: Mapping[str, Any]) -> dict[str, str]:
    fingerprint = summary.get("data_fingerprint", "unknown")
    protocol = _section(summary.get("config"), "data").get("protocol", "none")
    values = (f"fingerprint {fingerprint}", str(protocol), evaluated(summary))
    return dict(zip(COMMON, values, strict=True))


def _section(config: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    return (config or {}).get(name) or {}


def evaluated(summary: Mapping[str, Any]) -> str:
    """Part of its splits that a run evaluated: ``whole splits``, ``64 of 2,000 test examples``.

    Args:
        summary: Content of ``summary.json``, with ``config`` where it is known.

    Returns:
        The text, from ``num_evaluated``, or from the limit where an older version has not
        counted them.
    """
    counts = summary.get("num_evaluated")
    if counts is None:
        return evaluated_by(summary.get("config") or {}, summary.get("num_examples") or {})
    return _parts(counts, summary.get("num_examples") or {})


def evaluated_by(config: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """Part of the splits that a configuration evaluates.

    Args:
        config: Configuration of a run.
        sizes: Examples by split; where they are unknown, the text names the limit.

    Returns:
        The text, as :func:`evaluated` has it.
    """
    train = _section(config, "train")
    limit = train.get("limit_eval_batches")
    if limit is None:
        return WHOLE
    if not sizes:
        return f"train.limit_eval_batches={limit}"
    counts = {split: limit * train.get("eval_batch_size", 1) for split in sizes}
    return _parts(counts, sizes)


def _parts(counts: Mapping[str, int], sizes: Mapping[str, int]) -> str:
    cut = [
        f"{counts[split]:,} of {sizes[split]:,} {split} examples"
        for split in ("val", "test")
        if split in sizes and counts.get(split, sizes[split]) < sizes[split]
    ]
    return " and ".join(cut) or WHOLE


def cut_notes(summary: Mapping[str, Any]) -> list[str]:
    """What a run left out, for a summary of a version that did not say it.

    Args:
        summary: Content of ``summary.json``, with ``config`` where it is known.

    Returns:
        At most one sentence on the evaluation and one on the training.
    """
    if "num_evaluated" in summary:  # its notes have it
        return []
    notes = []
    if evaluated(summary) != WHOLE:
        notes.append(f"Evaluated in part: {evaluated(summary)} (train.limit_eval_batches).")
    train = _section(summary.get("config"), "train")
    limit = train.get("limit_batches")
    size = (summary.get("num_examples") or {}).get("train")
    if limit is not None and (size is None or limit < size // train.get("batch_size", 1)):
        notes.append(f"Trained on {limit} batches per epoch (train.limit_batches={limit}).")
    return notes
