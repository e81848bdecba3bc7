"""The page on several runs: a table, curves with a band over seeds, and a few lines on each."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from rotograd_cli.errors import ConfigError, one_line
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.report import charts, html
from rotograd_cli.report.charts import Band
from rotograd_cli.report.gradients import DASHES, NONE_RECORDED
from rotograd_cli.report.html import Section
from rotograd_cli.report.overview import command_line, notes
from rotograd_cli.report.page import Charts, render
from rotograd_cli.report.series import History, column, has, thinned, windows
from rotograd_cli.runs.directory import status_of
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.terminal import column_head, run_table, shown_metrics
from rotograd_cli.tables.command import TableCommand, table_of_runs
from rotograd_cli.tables.formats import DifferenceText, difference_grid, sentences, value_grid
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.rows import read_rows
from rotograd_cli.tables.runs import Run

MAX_TASKS = 10
POINTS = 80
SEEDS_FOR_P = 3
"""Seeds from which on the table of differences has p: of two, no p is below 0.5."""
HOW_TO_READ = (
    "Mean difference over the seeds that both have; in brackets its 95 % bootstrap interval. "
    f"p is left out where it is 1 or there are fewer than {SEEDS_FOR_P} seeds."
)


class Curve(NamedTuple):
    """A chart with a line per row."""

    title: str
    key: str
    """Column of the histories."""
    percent: bool = False


_CONFLICTS = (
    Curve("Conflict rate: share of pairs with negative cosine", "train/conflict/rate"),
    Curve("Mean cosine over pairs", "train/conflict/mean_cosine"),
)
Rows = Mapping[str, Sequence[History]]
"""Histories of a row's runs, by row."""


def comparison_page(runs: Sequence[Run], folder: Path) -> str:
    """Return the page on several runs.

    Args:
        runs: The runs.
        folder: Folder of the page, from which it links to pages of its runs.
    """
    page = Charts()
    rows, recorded, left_out = _rows(runs)
    sections = [
        _table(runs),
        _curves(rows, recorded, left_out, page),
        _conflicts(rows, page),
        Section("Runs", "".join(_run(run, folder) for run in runs)),
    ]
    names = [run.summary.data for run in runs]
    data = ", ".join(dict.fromkeys(str(name) for name in names if name is not None))
    seeds = len({run.seed for run in runs if run.config})
    subtitle = f"{_counted(len(rows), 'setting')}, {_counted(seeds, 'seed')}"
    return render(f"{len(runs)} runs on {data or 'unknown data'}", subtitle, sections, page)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _rows(
    runs: Sequence[Run],
) -> tuple[dict[str, list[History]], list[RunSummary], Sequence[str]]:
    """Return histories by row, runs of a single task by task, summaries, and what is left out."""
    try:
        found = read_rows(runs)
    except ConfigError as error:
        return {}, [], [f"There are no curves: {one_line(str(error))}"]
    rows: dict[str, list[History]] = defaultdict(list)
    for row in found.rows:
        for history in row.histories:
            task = history.run.only_task
            rows[row.label if task is None else f"{row.label}, {task}"].append(history.columns)
    return dict(rows), [history.run.summary for history in found.histories], found.notes


def _table(runs: Sequence[Run]) -> Section:
    command = TableCommand(runs=[str(run.folder) for run in runs])
    try:
        table = table_of_runs(command)
    except ConfigError as error:
        return Section("Results", html.sentence(f"There is no table: {one_line(str(error))}"))
    parts = [html.table(value_grid(table)), *_differences(table)]
    lines = [*sentences(table, "Bold", "underlined"), *table.details]
    return Section("Results", "".join(parts) + html.remarks(lines))


def _differences(table: Table) -> list[str]:
    grid = difference_grid(table, _in_lines)
    if grid is None:
        return []
    heading = f"Difference from {table.compare_with}"
    return [html.heading(heading), html.table(grid), html.sentence(HOW_TO_READ)]


def _in_lines(text: DifferenceText) -> str:
    """Return mean, interval and p below one another."""
    lines = [f"{text.mean}{text.mark}{text.seeds}", text.interval]
    if text.difference.num_seeds >= SEEDS_FOR_P and text.difference.p_holm < 1:
        lines.append(f"p {text.difference.p_holm:.2g}")
    return "\n".join(lines)


def _curves(
    rows: Rows, summaries: Sequence[RunSummary], left_out: Sequence[str], page: Charts
) -> Section:
    words = [*left_out]
    shown = _shown(rows)
    if len(rows) > len(shown):
        words.append(
            f"Curves show the first {len(shown)} of {len(rows)} settings; name fewer with `runs`."
        )
    if any(len(several) > 1 for several in shown.values()):
        words.append("Lines are means over seeds, bands reach from the lowest to the highest.")
    drawn = [_chart(curve, shown, page) for curve in _validation(summaries)]
    body = html.legend(list(shown)) + html.cards(filter(None, drawn)) + html.remarks(words)
    return Section("Learning curves", body)


def _shown(rows: Rows) -> dict[str, Sequence[History]]:
    """Return as many rows as there are colours."""
    return dict(list(rows.items())[: charts.MAX_COLOURS])


def _validation(summaries: Sequence[RunSummary]) -> list[Curve]:
    """Return what selects epochs, metrics on the validation split, and losses in training."""
    curves = {}
    for summary in summaries:
        if summary.select is not None:
            split, _, rest = summary.select.partition("/")
            title = f"{split} {MetricKey.parse(rest)}".replace("_", " ")
            curves[summary.select] = Curve(title, summary.select)
    for key, spec in shown_metrics(summaries).items():
        curve = Curve(f"val {column_head(key, spec)}", f"val/{key}", spec.percent)
        curves[curve.key] = curve
    tasks = list(dict.fromkeys(task for summary in summaries for task in summary.tasks))
    for task in tasks if len(tasks) <= MAX_TASKS else []:
        curve = Curve(f"train {task} loss", f"train/{task}/loss")
        curves[curve.key] = curve
    return list(curves.values())


def _conflicts(rows: Rows, page: Charts) -> Section:
    shown = _shown(rows)
    drawn = list(filter(None, [_chart(curve, shown, page) for curve in _CONFLICTS]))
    if not drawn:
        return Section("Gradients", html.sentence(NONE_RECORDED))
    return Section("Gradients", html.legend(list(shown)) + html.cards(drawn, "wide"))


def _chart(curve: Curve, rows: Rows, page: Charts) -> str | None:
    solid = _bands(curve.key, rows)
    if not solid:
        return None
    dashed = _bands(f"{curve.key}_before", rows)
    chart = charts.lines(solid, percent=curve.percent, names=list(rows), dashed=dashed)
    return page.add(f"{curve.title} ({DASHES})" if dashed else curve.title, chart)


def _bands(key: str, rows: Rows) -> list[Band]:
    bands: list[Band] = []
    for name, histories in rows.items():
        bands += band(name, [each for each in histories if has(each, key)], key)
    return bands


def band(line: str, histories: Sequence[History], key: str) -> list[Band]:
    """Return mean and extremes over runs of one key, at the steps that all of them recorded.

    Of more than ``POINTS`` such steps, windows of records: their mean, and their extremes.

    Args:
        line: Name of the line.
        histories: Runs that recorded the key.
        key: The key.
    """
    if not histories:
        return []
    recorded = [_by_step(history, key) for history in histories]
    steps = sorted(set.intersection(*(set(values) for values in recorded)))
    values = np.array([[each[step] for step in steps] for each in recorded])
    if not steps:
        return []
    at = np.array(steps)
    starts, places = windows(at, POINTS)
    columns = (
        thinned(at, values.mean(0), POINTS)[1],
        np.minimum.reduceat(values.min(0), starts),
        np.maximum.reduceat(values.max(0), starts),
    )
    points = zip(places.tolist(), *(each.tolist() for each in columns), strict=True)
    return [Band(line, *point) for point in points]


def _by_step(history: History, key: str) -> dict[float, float]:
    steps, values = column(history, key)
    return dict(zip(steps.tolist(), values.tolist(), strict=True))


def _run(run: Run, folder: Path) -> str:
    """Return a few lines on a run, folded away, with a link to its own page if there is one."""
    summary = run.summary
    parts = []
    own = run.folder / "report.html"
    if own.is_file():
        link = html.text(quote(os.path.relpath(own, folder)))
        parts.append(f'<p><a href="{link}">Its own report</a></p>')
    if summary.command:
        parts.append(html.code(command_line(summary.command)))
    if summary.error is not None:
        parts.append(f'<p class="error">{html.text(summary.error)}</p>')
    if summary.metrics:
        parts.append(html.table(run_table(summary)))
    parts.append(html.bullets(notes(summary)))
    heading = f"{summary.method_label or 'unknown method'}, seed {summary.seed}, {_status(run)}"
    return html.details(f"{heading}: {os.path.relpath(run.folder)}", "".join(parts))


def _status(run: Run) -> str:
    return run.outcome if run.summary.status == "finished" else status_of(run.folder, run.summary)
