"""What numbers were measured on: those of other data, protocols or examples are not compared."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rotograd_cli.tables.runs import Run

DATA = "data"
PROTOCOL = "protocol of the metrics"
EVALUATED = "evaluated"
COMMON = (DATA, PROTOCOL, EVALUATED)
"""Conditions that every number depends on."""
TASKS = "tasks"
"""Condition of numbers over all tasks: their statistics, the geometric mean of the losses."""
WHOLE = "whole splits"

Conditions = Mapping[str, str]
"""A text by condition, :data:`COMMON` and :data:`TASKS`; equal conditions have equal texts."""


def conditions(runs: Sequence[Run]) -> Conditions:
    """Return under what conditions runs were measured together.

    Args:
        runs: One run, or the runs of single tasks that make one result.
    """
    texts: dict[str, list[str]] = {
        DATA: [f"fingerprint {run.summary.data_fingerprint or 'unknown'}" for run in runs],
        PROTOCOL: [str((run.section("data") or {}).get("protocol", "none")) for run in runs],
        EVALUATED: [evaluated(run) for run in runs],
    }
    tasks = {task for run in runs for task in run.summary.tasks}
    together = {key: " and ".join(dict.fromkeys(values)) for key, values in texts.items()}
    return {**together, TASKS: ", ".join(sorted(tasks))}


def alike(several: Iterable[Conditions], keys: Sequence[str]) -> bool:
    """Return whether some conditions are the same everywhere."""
    return len({tuple(each[key] for key in keys) for each in several}) <= 1


def evaluated(run: Run) -> str:
    """Return the part of its splits that a run evaluated: ``64 of 2,000 test examples``."""
    sizes = run.summary.num_examples
    counts = run.summary.num_evaluated
    if counts is None:  # of a version that did not count
        return evaluated_by(run.config or {}, sizes)
    return _parts(counts, sizes)


def evaluated_by(config: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """Return the part of splits that a configuration evaluates, as :func:`evaluated` has it.

    Args:
        config: Configuration of a run.
        sizes: Examples by split.
    """
    train = config.get("train") or {}
    limit = train.get("limit_eval_batches")
    if limit is None:
        return WHOLE
    return _parts(dict.fromkeys(sizes, limit * train.get("eval_batch_size", 1)), sizes)


def _parts(counts: Mapping[str, int], sizes: Mapping[str, int]) -> str:
    cut = [
        f"{counts[split]:,} of {sizes[split]:,} {split} examples"
        for split in ("val", "test")
        if split in sizes and counts.get(split, sizes[split]) < sizes[split]
    ]
    return " and ".join(cut) or WHOLE


def notes_of(run: Run) -> list[str]:
    """Return the notes of a run, with what a version that did not say it left out."""
    notes = list(run.summary.notes)
    if run.summary.num_evaluated is not None:  # its notes have it
        return notes
    if evaluated(run) != WHOLE:
        notes.append(f"Evaluated in part: {evaluated(run)} (train.limit_eval_batches).")
    train = run.section("train") or {}
    limit = train.get("limit_batches")
    size = run.summary.num_examples.get("train", 0)
    if limit is not None and limit < size // train.get("batch_size", 1):
        notes.append(f"Trained on {limit} batches per epoch (train.limit_batches={limit}).")
    return notes
