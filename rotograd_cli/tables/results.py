"""The metrics of every row at every seed, and what is missing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.summary import MetricDisplay
from rotograd_cli.tables.runs import Conditions, Run, RunKey, conditions, with_protocols
from rotograd_cli.tables.spec import TableSpec
from rotograd_cli.tasks.metrics import OVER_TASKS, geometric_mean

GEOMEAN_LOSS = MetricKey(None, "geomean_loss")


@dataclass(frozen=True)
class SeedResult:
    """A row at one seed."""

    metrics: dict[MetricKey, float]
    """Test metrics over all tasks; NaN where a run had no finite value."""
    runs: list[Run] = field(repr=False)
    """Where it comes from: one run, or one per task."""

    @property
    def conditions(self) -> Conditions:
        """What it was measured on."""
        return conditions(self.runs)


Rows = Mapping[str, Mapping[int, SeedResult]]
"""Results by row and seed."""


@dataclass(frozen=True)
class Results:
    """What there is of a table's rows."""

    seeds: list[int]
    """Seeds that every row should have."""
    rows: dict[str, dict[int, SeedResult]]
    """Complete results by row and seed."""
    missing: dict[str, dict[int, str]]
    """Reason by row and seed that has no result."""

    @property
    def runs(self) -> list[Run]:
        """All runs, row by row."""
        results = [result for seeds in self.rows.values() for result in seeds.values()]
        return [run for result in results for run in result.runs]

    @property
    def trained_on(self) -> str:
        """What its runs were trained on: ``5,400 examples``; empty if none has recorded it."""
        sizes = {run.summary.num_examples.get("train", 0) for run in self.runs} - {0}
        amounts = [f"{size:,}" for size in sorted(sizes)]
        return f"{' or '.join(amounts)} examples" if amounts else ""


def collect(
    spec: TableSpec,
    runs: Mapping[RunKey, Run],
    seeds: Sequence[int] | None = None,
    unavailable: Mapping[tuple[str, str | None], str] = {},
) -> Results:
    """Join the runs of every row and seed.

    Args:
        spec: Table; its rows are those expected.
        runs: The run of every cell that has one.
        seeds: Seeds expected of every row; None takes 0 to ``spec.seeds`` - 1.
        unavailable: Reason by row and task that has no run; empty or absent is ``no run``.

    Returns:
        Complete results, and the reason of every seed that has none: a run that is absent,
        unfinished or failed, of a ``per_task`` row any one of its tasks.
    """
    known = dict(zip(runs, with_protocols(list(runs.values())), strict=True))
    results = Results(list(range(spec.seeds) if seeds is None else seeds), {}, {})
    for row in spec.rows:
        results.rows[row] = {}
        results.missing[row] = {}
        for seed in results.seeds:
            cells = [RunKey(row, seed, task) for task in spec.tasks_of(row)]
            reasons = [_reason(cell, known.get(cell), unavailable) for cell in cells]
            if any(reasons):
                results.missing[row][seed] = ", ".join(filter(None, reasons))
            else:
                results.rows[row][seed] = _join({cell.task: known[cell] for cell in cells})
    return results


def _reason(
    cell: RunKey, run: Run | None, unavailable: Mapping[tuple[str, str | None], str]
) -> str:
    """Why a cell has no result; empty if it has one."""
    if run is None:
        text = unavailable.get((cell.row, cell.task)) or "no run"
    elif run.is_finished:
        return ""
    else:
        text = "not finished" if run.outcome == "running" else run.outcome
    return text if cell.task is None else f"{cell.task}: {text}"


def _join(runs: Mapping[str | None, Run]) -> SeedResult:
    """One result of a run of all tasks, or of one run per task."""
    if None in runs:
        return SeedResult(runs[None].metrics("test"), [runs[None]])
    metrics = {
        key: value
        for task, run in runs.items()
        for key, value in run.metrics("test").items()
        if key.task == task
    }
    losses = {key: value for key, value in metrics.items() if key.name == "loss"}
    metrics[GEOMEAN_LOSS] = geometric_mean(losses)
    return SeedResult(metrics | _over_tasks(metrics, runs.values()), list(runs.values()))


def _over_tasks(metrics: Mapping[MetricKey, float], runs: Iterable[Run]) -> dict[MetricKey, float]:
    """What :mod:`rotograd_cli.tasks.metrics` has of one run, over runs of single tasks.

    Nothing unless all tasks lead with the same metric.
    """
    leading = [next(iter(metric_specs([run])), GEOMEAN_LOSS) for run in runs]
    names = {key.name for key in leading}
    if len(names) != 1 or not all(key.task and key in metrics for key in leading):
        return {}
    values = torch.tensor([metrics[key] for key in leading], dtype=torch.float64)
    name = names.pop()
    return {MetricKey(None, f"{kind}_{name}"): float(of(values)) for kind, of in OVER_TASKS.items()}


def metric_specs(runs: Iterable[Run]) -> dict[MetricKey, MetricDisplay]:
    """Return direction and unit of all metrics of some runs, then of the statistics over tasks."""
    specs: dict[str, MetricDisplay] = {}
    for run in runs:
        specs |= run.summary.displays
    specs["geomean_loss"] = MetricDisplay("lower", False)
    return {MetricKey.parse(key): spec for key, spec in specs.items()}
