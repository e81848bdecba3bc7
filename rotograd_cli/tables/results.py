"""From summaries of runs to the metrics of a row at a seed, and what is missing."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.saved import read_saved
from rotograd_cli.runs.summary import RunSummary, evaluations
from rotograd_cli.tables.conditions import Conditions, conditions, cut_notes
from rotograd_cli.tables.spec import TableSpec
from rotograd_cli.tasks.metrics import geometric_mean

_COUNTS = ("limit_batches", "limit_eval_batches", "batch_size", "eval_batch_size")
"""Keys of ``train`` that notes count with."""


class RunKey(NamedTuple):
    """Which cell a run belongs to."""

    row: str
    seed: int
    task: str | None = None
    """The one task of a run of a ``per_task`` row; None for a run of all tasks."""


@dataclass(frozen=True)
class SeedResult:
    """A row at one seed."""

    row: str
    seed: int
    metrics: dict[str, float]
    """Test metrics by key (``test/left/accuracy``), over all tasks; NaN where a run had none."""
    summaries: list[dict[str, Any]] = field(repr=False)
    """Of the runs it comes from, one or one per task."""

    @property
    def conditions(self) -> Conditions:
        """What it was measured on."""
        return conditions(self.summaries)


Results = dict[str, dict[int, SeedResult]]
"""Results by row and seed."""
Missing = dict[str, dict[int, str]]
"""Why a seed of a row has no result, by row and seed."""


def read_run(run_dir: Path) -> dict[str, Any] | None:
    """Summary of a run with what a table needs of its other files.

    Args:
        run_dir: Run directory.

    Returns:
        The content of ``summary.json`` and, where they can be read, ``config`` (``config.yaml``)
        and ``first_evaluation`` (the first record of ``metrics.jsonl`` that has an evaluation), and
        ``run_dir``; among its ``notes``, what an older version left out and did not say. None if
        there is no summary.
    """
    summary = RunSummary.read(run_dir)
    if summary is None:
        return None
    found = {"config": read_config(run_dir), "first_evaluation": next(evaluations(run_dir), None)}
    known = {key: value for key, value in found.items() if value is not None}
    run = {**summary.content(), "status": summary.outcome, **known, "run_dir": str(run_dir)}
    cut = cut_notes(run)
    return {**run, "notes": [*run.get("notes", []), *cut]} if cut else run


def read_config(run_dir: Path) -> dict[str, Any] | None:
    """Content of a run's ``config.yaml``; None if there is none, or it is no run's."""
    try:
        config = read_saved(run_dir / "config.yaml")
    except ConfigError:
        return None
    sections = [config.get(name, {}) for name in ("method", "data", "train")]
    is_runs = (
        type(config.get("seed")) is int
        and all(isinstance(section, dict) for section in sections)
        and all(isinstance(sections[2].get(key), (int, NoneType)) for key in _COUNTS)
        and isinstance(config.get("tasks") or [], list)
    )
    return config if is_runs else None


def collect(
    spec: TableSpec,
    summaries: Mapping[RunKey, Mapping[str, Any] | None],
    seeds: Sequence[int] | None = None,
) -> tuple[Results, Missing]:
    """Joins the runs of every row and seed.

    Args:
        spec: Table; its rows are those expected.
        summaries: Summary of every run (:func:`read_run`), None for a run that left nothing.
            Keys are :class:`RunKey` or tuples like it.
        seeds: Seeds expected of every row; None takes 0 to ``spec.seeds`` - 1.

    Returns:
        Complete results by row and seed, and the reason of every seed that has none: a run that is
        absent, unfinished or failed, of a ``per_task`` row any one of its tasks.
    """
    given = {RunKey(*key): summary for key, summary in summaries.items()}
    expected = range(spec.seeds) if seeds is None else seeds
    results: Results = {row: {} for row in spec.rows}
    missing: Missing = {row: {} for row in spec.rows}
    for row, row_spec in spec.rows.items():
        tasks: Sequence[str | None] = spec.tasks if row_spec.per_task else [None]
        for seed in expected:
            runs = {task: given.get(RunKey(row, seed, task)) for task in tasks}
            reasons = [_reason(task, summary) for task, summary in runs.items()]
            if any(reasons):
                missing[row][seed] = ", ".join(filter(None, reasons))
            else:
                results[row][seed] = _join(row, seed, runs)
    return results, missing


def _reason(task: str | None, summary: Mapping[str, Any] | None) -> str | None:
    text = "no run" if summary is None else str(summary.get("status", "no status"))
    if text == "finished":
        return None
    text = "not finished" if text == "running" else text
    return text if task is None else f"{task}: {text}"


def _join(row: str, seed: int, runs: Mapping[str | None, Mapping[str, Any] | None]) -> SeedResult:
    metrics: dict[str, float] = {}
    for task, summary in runs.items():
        assert summary is not None
        for key, value in summary["metrics"].items():
            own = task is None or key.startswith(f"test/{task}/")
            if own and key.startswith("test/"):
                metrics[key] = math.nan if value is None else float(value)
    if None not in runs:
        losses = {key: value for key, value in metrics.items() if key.endswith("/loss")}
        metrics["test/geomean_loss"] = geometric_mean(losses)
        metrics |= _over_tasks(metrics, [s for s in runs.values() if s is not None])
    return SeedResult(row, seed, metrics, [dict(s) for s in runs.values() if s is not None])


def _over_tasks(
    metrics: Mapping[str, float], summaries: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """What :func:`rotograd_cli.tasks.metrics.statistics` has of one run, over runs of single tasks.

    Nothing unless all tasks lead with the same metric.
    """
    leading = [next(iter(summary.get("metric_specs", {})), "") for summary in summaries]
    names = {key.partition("/")[2] for key in leading}
    if len(names) > 1 or not all(f"test/{key}" in metrics for key in leading):
        return {}
    values = np.array([metrics[f"test/{key}"] for key in leading])
    functions: dict[str, Callable[..., Any]] = {
        "min": np.min,
        "median": np.median,
        "mean": np.mean,
        "std": np.std,
    }
    is_known = bool(np.isfinite(values).all())
    return {
        f"test/{kind}_{name}": float(function(values)) if is_known else math.nan
        for name in names
        for kind, function in functions.items()
    }


def all_summaries(results: Results) -> list[dict[str, Any]]:
    """Summaries of all runs, row by row."""
    return [s for seeds in results.values() for result in seeds.values() for s in result.summaries]


def metric_specs(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Direction and unit by key (without the split) of all metrics and statistics of some runs."""
    specs: dict[str, Mapping[str, Any]] = {}
    for summary in summaries:
        specs |= {**summary.get("metric_specs", {}), **summary.get("statistic_specs", {})}
    specs["geomean_loss"] = {"better": "lower", "percent": False}
    return specs
