"""Learning curves of one run."""

from collections.abc import Mapping

import numpy as np

from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.report import charts, html
from rotograd_cli.report.charts import MAX_COLOURS
from rotograd_cli.report.html import Section
from rotograd_cli.report.page import Charts
from rotograd_cli.report.series import History, has, points
from rotograd_cli.runs.summary import MetricDisplay, RunSummary
from rotograd_cli.runs.terminal import column_head

MAX_CHARTS = 12


def curves(history: History, summary: RunSummary, page: Charts) -> Section:
    """Return losses and metrics over steps; of many tasks, heat maps and statistics over tasks."""
    losses = [f"{split}/{task}/loss" for split in ("train", "val") for task in summary.tasks]
    if not any(has(history, key) for key in losses):
        remedy = "metrics.jsonl holds no losses: the run ended before its first logging step."
        return Section("Learning curves", html.sentence(remedy))
    mark = selected_step(history, summary)
    few = len(summary.tasks) <= MAX_CHARTS
    drawn = [
        *_selection(history, summary, page, mark),
        *(_losses(history, summary, page, mark) if few else []),
        *_metrics(history, summary, page, mark),
    ]
    parts = [html.cards(drawn)]
    if not few:
        keys = {task: f"val/{task}/loss" for task in summary.tasks}
        parts.append(html.cards([over_time("Validation loss of every task", keys, history, page)]))
    if mark is not None:
        which = "selected epoch" if summary.status == "finished" else "best epoch so far"
        parts.append(html.sentence(f"The dashed line is the end of the {which}."))
    return Section("Learning curves", "".join(parts))


def selected_step(history: History, summary: RunSummary) -> float | None:
    """Return the step at which the selected epoch was evaluated; None where there is none."""
    is_selected = summary.selected_epoch is not None and summary.averaged_epochs is None
    if not is_selected or "epoch" not in history:
        return None
    # a test record has the selected epoch too, but the last step
    evaluated = [np.isfinite(v) for key, v in history.items() if key.startswith("val/")]
    of_epoch = history["epoch"] == summary.selected_epoch
    steps = history["step"][of_epoch & np.any(evaluated, axis=0)]
    return float(steps.max()) if len(steps) else None


def _selection(
    history: History, summary: RunSummary, page: Charts, mark: float | None
) -> list[str]:
    key = summary.select
    if key is None or not has(history, key):
        return []
    split, _, rest = key.partition("/")
    title = f"{split} {MetricKey.parse(rest)}".replace("_", " ")
    if summary.averaged_epochs is None:
        title += ", which selects the epoch"
    return [page.add(title, charts.lines(points(history, {split: key}), mark_step=mark))]


def _losses(history: History, summary: RunSummary, page: Charts, mark: float | None) -> list[str]:
    drawn = []
    for task in summary.tasks:
        keys = {split: f"{split}/{task}/loss" for split in ("train", "val")}
        if any(has(history, key) for key in keys.values()):
            rows = points(history, keys)
            drawn.append(page.add(f"{task} loss", charts.lines(rows, mark_step=mark)))
    return drawn


def over_time(
    title: str, keys: Mapping[str, str], history: History, page: Charts, *, log: bool = False
) -> str:
    """Return a chart of many lines: coloured lines as long as colours can be told apart.

    Args:
        title: Heading.
        keys: Key by line.
        history: Columns.
        page: Takes up the chart.
        log: Whether lines have a logarithmic axis.
    """
    recorded = {line: key for line, key in keys.items() if has(history, key)}
    if len(recorded) <= MAX_COLOURS:
        return page.add(title, charts.lines(points(history, recorded), log=log))
    rows = points(history, recorded, 40 * len(recorded))
    return page.add(title, charts.heat_rows(rows, log=log))


def _metrics(history: History, summary: RunSummary, page: Charts, mark: float | None) -> list[str]:
    specs: Mapping[str, MetricDisplay] = summary.metric_specs
    if len(specs) > MAX_CHARTS:
        specs = summary.statistic_specs
    drawn = []
    for key, spec in specs.items():
        keys = {split: f"{split}/{key}" for split in ("train", "val")}
        rows = points(history, {line: k for line, k in keys.items() if has(history, k)})
        if rows:
            chart = charts.lines(rows, mark_step=mark, percent=spec.percent)
            drawn.append(page.add(column_head(key, spec), chart))
    return drawn
