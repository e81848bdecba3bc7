"""Tables of a run for the terminal, and how metrics are named and printed."""

import math
from collections.abc import Iterable, Mapping, Sequence

from rotograd_cli.metric_keys import MetricKey, of_split
from rotograd_cli.printing.grid import Grid
from rotograd_cli.runs.summary import MetricDisplay, RunSummary, finite

MAX_COLUMNS = 10
"""Metrics in a table of several runs, beyond which statistics over tasks replace them."""


def run_table(summary: RunSummary, splits: Sequence[str] = ("val", "test")) -> Grid:
    """Return the results of one run: a row per metric of a task, then statistics over tasks.

    Args:
        summary: What the run recorded.
        splits: Splits that get a column, after that of ``train`` where it was evaluated.
    """
    metrics = summary.metrics
    splits = [split for split in ("train", *splits) if of_split(metrics, split)]

    def row(task: str, label: str, key: str, percent: bool = False) -> list[str]:
        return [task, label, *(format_value(metrics.get(f"{s}/{key}"), percent) for s in splits)]

    specs = summary.metric_specs
    measured = {MetricKey.parse(key).task for key in specs}
    # a task without metrics is shown by its loss
    rows = [row(t, "loss ↓", f"{t}/loss") for t in summary.tasks if t not in measured]
    for key, spec in specs.items():
        task, name = MetricKey.parse(key)
        rows.append(row(str(task), label(name, spec), key, spec.percent))
    for key, spec in summary.statistic_specs.items():
        rows.append(row("all", column_head(key, spec), key, spec.percent))
    if str(summary.select).endswith("/relative_loss"):
        rows.append(row("all", "loss relative to the untrained network ↓", "relative_loss"))
    else:
        rows.append(row("all", "geometric mean of losses ↓", "geomean_loss"))
    title = f"{summary.method_label} on {summary.data}, seed {summary.seed}, {summary.measured_at}"
    return Grid.of_texts(["task", "metric", *splits], rows, title, labels=2)


def shown_metrics(summaries: Iterable[RunSummary]) -> dict[str, MetricDisplay]:
    """Return the metrics that get a column in a table of several runs.

    Args:
        summaries: Summaries of the runs.

    Returns:
        By key without the split: the metrics of the tasks and the statistics over tasks, or where
        the metrics are more than ``MAX_COLUMNS``, the statistics alone.
    """
    metrics: dict[str, MetricDisplay] = {}
    statistics: dict[str, MetricDisplay] = {}
    for summary in summaries:
        metrics |= summary.metric_specs
        statistics |= summary.statistic_specs
    return statistics if statistics and len(metrics) > MAX_COLUMNS else metrics | statistics


def metric_name(key: str) -> str:
    """Name of a metric for a reader: ``left accuracy``, ``mean f1``."""
    task, name = MetricKey.parse(key)
    return name.replace("_", " ", 1) if task is None else f"{task} {name}"


def column_head(key: str, spec: MetricDisplay) -> str:
    """Head of a metric's column: ``left accuracy % ↑``, ``mean f1 % ↑``."""
    return label(metric_name(key), spec)


def remarks(notes: Iterable[str]) -> list[str]:
    """Return the lines below a table for the notes of its runs on their data, each note once."""
    return [f"Note: {note.rstrip('.')}." for note in dict.fromkeys(notes)]


def training_time(summary: RunSummary) -> str:
    """Say how long the training steps took, and how much of that they waited for data."""
    seconds = summary.train_s or 0.0
    waiting_s = summary.data_s or 0.0
    share = 100 * waiting_s / seconds if seconds else 0.0
    text = f"{seconds:.1f} s" if seconds < 3600 else f"{seconds / 3600:.2f} h"
    return f"Training steps took {text}, {share:.1f} % of it waiting for data."


def evaluation_table(
    measured: Mapping[str, float],
    recorded: Mapping[str, float | None],
    other_data: str | None = None,
) -> tuple[Grid, str]:
    """Metrics measured now beside those that the run recorded.

    Args:
        measured: Metrics by key.
        recorded: The run's own, None for a value that was not finite; may be empty.
        other_data: That the run was trained on other data, in words; None if it was not.

    Returns:
        The table, and a sentence that says whether they are equal, and what may be the reason.
    """
    rows = [[k, _text(v, ".8g"), _text(recorded.get(k), ".8g")] for k, v in measured.items()]
    table = Grid.of_texts(["metric", "now", "recorded"], rows)
    different = [key for key, value in recorded.items() if finite(measured[key]) != value]
    if not recorded:
        return table, "The run recorded no metrics of this split and checkpoint."
    if not different:
        note = "" if other_data is None else f", though {other_data}"
        return table, f"All {len(recorded)} values equal the run's record exactly{note}."
    reason = other_data or (
        "another device, number of threads or library version (summary.json has the run's)"
    )
    return table, (
        f"{len(different)} of {len(recorded)} values differ from the run's record: {reason}."
    )


def label(name: str, spec: MetricDisplay) -> str:
    """Name of a metric with its unit and an arrow in the direction of better, if it has one."""
    arrow = {"higher": " ↑", "lower": " ↓", None: ""}[spec.better]
    return f"{name}{' %' if spec.percent else ''}{arrow}"


def format_value(value: float | None, percent: bool) -> str:
    """A number for a table: two decimals in percent, four otherwise, a dash for none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{100 * value:.2f}" if percent else f"{value:.4f}"


def format_selected(value: float | None) -> str:
    """A selection value: four decimals, four digits where these would say little."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-2 <= abs(value) < 1e6 else f"{value:.4g}"


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
