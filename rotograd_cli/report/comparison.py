"""The page on several runs: a table, curves with a band over seeds, and a few lines on each."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rotograd_cli.errors import ConfigError, DatasetError, one_line
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.report import charts, html
from rotograd_cli.report.charts import Band
from rotograd_cli.report.html import Section
from rotograd_cli.report.overview import command_line, notes
from rotograd_cli.report.page import Charts, render
from rotograd_cli.report.series import History, has, thinned
from rotograd_cli.runs.history import read_history
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.terminal import column_head, run_table, shown_metrics
from rotograd_cli.tables.adhoc import cells_of
from rotograd_cli.tables.command import TableCommand, table_of_runs
from rotograd_cli.tables.formats import grids, sentences
from rotograd_cli.tables.runs import Run

MAX_ROWS = charts.MAX_COLOURS
MAX_TASKS = 10
POINTS = 80
_CONFLICTS = (
    ("train/conflict/rate_before", "Conflict rate before the rotations"),
    ("train/conflict/rate", "Conflict rate"),
    ("train/conflict/mean_cosine_before", "Mean cosine before the rotations"),
    ("train/conflict/mean_cosine", "Mean cosine"),
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
    summaries = [run.summary for run in runs]
    rows, missing = _rows(runs)
    sections = [
        _table(runs),
        _curves(rows, summaries, missing, page),
        _conflicts(rows, page),
        Section("Runs", "".join(_run(run, folder) for run in runs)),
    ]
    data = ", ".join(dict.fromkeys(str(s.data) for s in summaries if s.data is not None))
    subtitle = f"{len(rows)} settings, {len({run.seed for run in runs if run.config})} seeds"
    return render(f"{len(runs)} runs on {data or 'unknown data'}", subtitle, sections, page)


def _rows(runs: Sequence[Run]) -> tuple[dict[str, list[History]], list[str]]:
    """Return the histories by row, and a sentence for each run without one."""
    rows: dict[str, list[History]] = defaultdict(list)
    missing = []
    for key, several in cells_of([run for run in runs if run.config]).items():
        name = key.row if key.task is None else f"{key.row}, {key.task}"
        for run in several:
            try:
                rows[name].append(read_history(run.folder))
            except DatasetError as error:
                missing.append(one_line(str(error)))
    return dict(rows), missing


def _table(runs: Sequence[Run]) -> Section:
    command = TableCommand(runs=[str(run.folder) for run in runs])
    try:
        table = table_of_runs(command)
    except ConfigError as error:
        return Section("Results", html.sentence(f"There is no table: {one_line(str(error))}"))
    parts = [html.table(grid) for grid in grids(table)]
    lines = sentences(table, "bold", "underlined")
    return Section("Results", "".join(parts) + "".join(map(html.sentence, lines)))


def _curves(
    rows: Rows, summaries: Sequence[RunSummary], missing: Sequence[str], page: Charts
) -> Section:
    words = [*missing]
    shown = dict(list(rows.items())[:MAX_ROWS])
    if len(rows) > len(shown):
        words.append(
            f"Curves show the first {len(shown)} of {len(rows)} settings; name fewer with `runs`."
        )
    drawn = [_chart(title, key, shown, page) for key, title in _keys(summaries).items()]
    boxes = html.cards(filter(None, drawn), "wide")
    if any(len(several) > 1 for several in shown.values()):
        words.append("Lines are means over seeds, bands reach from the lowest to the highest.")
    return Section("Learning curves", boxes + "".join(map(html.sentence, words)))


def _keys(summaries: Sequence[RunSummary]) -> dict[str, str]:
    """Return titles by key: what selects, then metrics on the validation split."""
    keys = {}
    for summary in summaries:
        if summary.select is not None:
            split, _, rest = summary.select.partition("/")
            keys[summary.select] = f"{split} {MetricKey.parse(rest)}".replace("_", " ")
    for key, spec in shown_metrics(summaries).items():
        keys[f"val/{key}"] = f"val {column_head(key, spec)}"
    tasks = list(dict.fromkeys(task for summary in summaries for task in summary.tasks))
    for task in tasks if len(tasks) <= MAX_TASKS else []:
        keys[f"train/{task}/loss"] = f"train {task} loss"
    return keys


def _conflicts(rows: Rows, page: Charts) -> Section:
    shown = dict(list(rows.items())[:MAX_ROWS])
    drawn = list(filter(None, (_chart(title, key, shown, page) for key, title in _CONFLICTS)))
    if not drawn:
        remedy = (
            "No run recorded diagnostics of its gradients; train with diagnostics=basic, which is "
            "the default, or diagnostics=full."
        )
        return Section("Gradients", html.sentence(remedy))
    return Section("Gradients", html.cards(drawn, "wide"))


def _chart(title: str, key: str, rows: Rows, page: Charts) -> str | None:
    bands: list[Band] = []
    for name, histories in rows.items():
        bands += band(name, [history for history in histories if has(history, key)], key)
    return page.add(title, charts.lines(bands)) if bands else None


def band(line: str, histories: Sequence[History], key: str) -> list[Band]:
    """Return mean and extremes over runs of one key, at the steps that all of them recorded.

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
    columns = (values.mean(0), values.min(0), values.max(0))
    at = np.array(steps)
    thin = [thinned(at, each, POINTS)[1].tolist() for each in columns]
    places = thinned(at, at, POINTS)[0].tolist()
    return [Band(line, *point) for point in zip(places, *thin, strict=True)]


def _by_step(history: History, key: str) -> dict[float, float]:
    recorded = np.isfinite(history[key])
    pairs = zip(history["step"][recorded].tolist(), history[key][recorded].tolist(), strict=True)
    return dict(pairs)


def _run(run: Run, folder: Path) -> str:
    """Return a few lines on a run, folded away, with a link to its own page if there is one."""
    summary = run.summary
    parts = []
    own = run.folder / "report.html"
    if own.is_file():
        link = html.text(os.path.relpath(own, folder))
        parts.append(f'<p><a href="{link}">Its own report</a></p>')
    if summary.command:
        parts.append(html.code(command_line(summary.command)))
    if summary.error is not None:
        parts.append(f'<p class="error">{html.text(summary.error)}</p>')
    if summary.metrics:
        parts.append(html.table(run_table(summary)))
    parts.append(html.bullets(notes(summary)))
    heading = f"{summary.method or 'unknown method'}, seed {summary.seed}, {run.outcome}"
    return html.details(f"{heading}: {os.path.relpath(run.folder)}", "".join(parts))
