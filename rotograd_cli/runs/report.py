"""From run directories to tables."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rotograd_cli.runs.summaries import is_summary, outcome, selected_value
from rotograd_cli.runs.terminal import encodable

MAX_COLUMNS = 10
"""Metrics in a table of several runs, beyond which statistics over tasks replace them."""


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """Reads ``summary.json`` of a run.

    Args:
        run_dir: Run directory.

    Returns:
        Its content, or None if there is none, it is unreadable, or holds what no run writes.
    """
    try:
        content = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if is_summary(content) else None


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Writes ``summary.json``, atomically. Infinite and NaN values become null.

    Args:
        run_dir: Run directory.
        summary: Plain values.
    """
    temporary = run_dir / "summary.tmp"
    temporary.write_text(json.dumps(_finite(summary), indent=2) + "\n", encoding="utf-8")
    temporary.replace(run_dir / "summary.json")


def run_table(summary: Mapping[str, Any], splits: Sequence[str] = ("val", "test")) -> Table:
    """Results of one run: rows of metrics by task, then statistics over tasks; columns of splits.

    Args:
        summary: Content of ``summary.json``.
        splits: Splits to show.

    Returns:
        The table.
    """
    metrics = summary["metrics"]
    splits = [s for s in ("train", *splits) if any(key.startswith(f"{s}/") for key in metrics)]
    table = Table(
        title=f"{summary['method']} on {summary['data']}, seed {summary['seed']}, "
        f"epoch {summary['selected_epoch']} of {summary['epochs']}",
    )
    table.add_column("task")
    table.add_column("metric")
    for split in splits:
        table.add_column(split, justify="right")
    known = [key.split("/")[0] for key in summary["metric_specs"]]
    for task in summary["tasks"]:
        if task not in known:  # no metric: its loss stands in
            cells = [format_value(metrics.get(f"{split}/{task}/loss"), False) for split in splits]
            table.add_row(task, "loss ↓", *cells)
    for key, spec in summary["metric_specs"].items():
        task, name = key.split("/")
        cells = [format_value(metrics.get(f"{split}/{key}"), spec["percent"]) for split in splits]
        table.add_row(task, f"{label(name, spec)}", *cells)
    for name, spec in summary.get("statistic_specs", {}).items():
        cells = [format_value(metrics.get(f"{split}/{name}"), spec["percent"]) for split in splits]
        table.add_row("all", column_head(name, spec), *cells)
    key, name = "geomean_loss", "geometric mean of losses ↓"
    if str(summary.get("select")).endswith("/relative_loss"):
        key, name = "relative_loss", "loss relative to the untrained network ↓"
    cells = [format_value(metrics.get(f"{split}/{key}"), False) for split in splits]
    table.add_row("all", name, *cells)
    return table


def sweep_table(summaries: Sequence[tuple[str, Mapping[str, Any] | None]]) -> Table:
    """Status, selection value and test metrics of the cells of a sweep.

    Args:
        summaries: Name and summary of each cell; None where a cell wrote nothing.

    Returns:
        The table. Its numbers are those of finished cells; the selection value is what cells are
        to be chosen by, and what a search minimises or maximises.
    """
    contents = [summary for _, summary in summaries if summary is not None]
    specs = shown_metrics(contents)
    selected = dict.fromkeys(str(summary["select"]) for summary in contents if "select" in summary)
    common = common_overrides([summary for _, summary in summaries])
    table = Table()
    for column in ("cell", "status", "overrides"):
        table.add_column(column)
    if selected:
        table.add_column(f"selected by {' / '.join(selected)}", justify="right")
    for key, spec in specs.items():
        table.add_column(column_head(key, spec), justify="right")
    for name, summary in summaries:
        content = summary or {"status": "no result"}
        own = [word for word in content.get("overrides", []) if word not in common]
        row = [outcome(content), "\n".join(own)]
        if selected:
            value = selected_value(content)
            row.append("-" if value is None else f"{value:.6g}")
        table.add_row(name, *row, *_test_metrics(content, specs))
    return table


def _test_metrics(summary: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Test metrics as texts; dashes where the run did not finish."""
    metrics = summary.get("metrics", {}) if outcome(summary) == "finished" else {}
    return [
        format_value(metrics.get(f"test/{key}"), spec["percent"]) for key, spec in specs.items()
    ]


def shown_metrics(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Metrics that get a column in a table of several runs.

    Args:
        summaries: Summaries of the runs.

    Returns:
        Direction and unit by key (without the split): the metrics of the tasks and the statistics
        over tasks, or where the metrics are more than ``MAX_COLUMNS``, the statistics alone.
    """
    metrics: dict[str, Mapping[str, Any]] = {}
    statistics: dict[str, Mapping[str, Any]] = {}
    for summary in summaries:
        metrics |= summary.get("metric_specs", {})
        statistics |= summary.get("statistic_specs", {})
    return statistics if statistics and len(metrics) > MAX_COLUMNS else metrics | statistics


def column_head(key: str, spec: Mapping[str, Any]) -> str:
    """Head of a metric's column: ``left accuracy % ↑``, ``mean f1 % ↑``."""
    first, second = key.split("/") if "/" in key else key.split("_", 1)
    return f"{first} {label(second, spec)}"


def remarks(summaries: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """What must stand below every table of these runs: notes on their data, each once.

    Args:
        summaries: Contents of ``summary.json``; None where a run wrote nothing.

    Returns:
        The lines.
    """
    notes = [note for summary in summaries for note in (summary or {}).get("notes", [])]
    return [f"Note: {note.rstrip('.')}." for note in dict.fromkeys(notes)]


def training_time(summary: Mapping[str, Any]) -> str:
    """Wall time of the training steps and the share of it in which they waited for data.

    Args:
        summary: Content of ``summary.json``.

    Returns:
        A sentence.
    """
    seconds, waiting = summary["train_s"], summary["data_s"]
    share = 100 * waiting / seconds if seconds else 0.0
    text = f"{seconds:.1f} s" if seconds < 3600 else f"{seconds / 3600:.2f} h"
    return f"Training steps took {text}, {share:.1f} % of it waiting for data."


def common_overrides(summaries: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """Overrides that all cells of a sweep have, in order; none for a single cell.

    Args:
        summaries: Summaries of the cells; None where a cell wrote nothing.

    Returns:
        The overrides.
    """
    lists = [summary.get("overrides", []) for summary in summaries if summary is not None]
    if len(lists) < 2:
        return []
    return [word for word in lists[0] if all(word in others for others in lists)]


def evaluation_table(
    measured: Mapping[str, float],
    recorded: Mapping[str, float | None],
    other_data: str | None = None,
) -> tuple[Table, str]:
    """Metrics measured now beside those that the run recorded.

    Args:
        measured: Metrics by key.
        recorded: The run's own, None for a value that was not finite; may be empty.
        other_data: That the run was trained on other data, in words; None if it was not.

    Returns:
        The table, and a sentence that says whether they are equal, and what may be the reason.
    """
    table = Table()
    for column in ("metric", "now", "recorded"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for key, value in measured.items():
        known = recorded.get(key)
        table.add_row(key, f"{value:.8g}", "-" if known is None else f"{known:.8g}")
    different = [key for key, value in recorded.items() if _finite(measured[key]) != value]
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


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    """A table of texts, the first column to the left, numbers to the right.

    Args:
        heads: Column heads.
        rows: Rows as long as the heads.
        title: Title.

    Returns:
        The table.
    """
    table = Table(title=title)
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return table


def print_table(table: Table) -> None:
    """Prints a table to standard output, complete even where the terminal is narrow."""
    told = Console().is_terminal or "COLUMNS" in os.environ
    # without markup: the brackets of tasks=[left,right] are no style
    console = Console(highlight=False, markup=False, width=None if told else 160)
    for part in fitting(table, console):
        console.print(part)


def fitting(table: Table, console: Console) -> list[Table]:
    """Cuts a table that is too wide for a terminal into several.

    Args:
        table: Table.
        console: Where it will be printed.

    Returns:
        Tables in characters that the terminal has. Each repeats the first column; none is wider
        than the terminal, unless two columns are.
    """
    first, *others = range(len(table.columns))
    parts = [[first]]
    for index in others:
        wide = _width(_columns(table, [*parts[-1], index], console), console) > console.width
        if wide and len(parts[-1]) > 1:
            parts.append([first])
        parts[-1].append(index)
    tables = [_columns(table, part, console) for part in parts]
    tables[0].title = _plain(table.title or "", console)
    return tables


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=10_000)).maximum


def _columns(table: Table, indices: Sequence[int], console: Console) -> Table:
    """Some of a table's columns."""
    result = Table()
    columns = [table.columns[index] for index in indices]
    for column in columns:
        # folded where two columns are too wide: nothing is left out
        result.add_column(_plain(column.header, console), justify=column.justify, overflow="fold")
    for row in zip(*(column.cells for column in columns), strict=True):
        result.add_row(*(_plain(cell, console) for cell in row))
    return result


def _plain(text: Any, console: Console) -> Text:
    """A cell with what the terminal's encoding has, before widths are measured."""
    styled = text if isinstance(text, Text) else Text(str(text))
    return Text(encodable(styled.plain, console.encoding), style=styled.style)


def label(name: str, spec: Mapping[str, Any]) -> str:
    """Name of a metric with its unit and an arrow in the direction of better, if it has one."""
    arrow = {"higher": " ↑", "lower": " ↓", None: ""}[spec["better"]]
    return f"{name}{' %' if spec['percent'] else ''}{arrow}"


def format_value(value: float | None, percent: bool) -> str:
    """A number for a table: two decimals in percent, four otherwise, a dash for none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{100 * value:.2f}" if percent else f"{value:.4f}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
