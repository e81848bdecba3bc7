"""What was run: the command, its outcome, its numbers, where and on what."""

import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from rotograd_cli.errors import listed, suggested
from rotograd_cli.printing.grid import Grid
from rotograd_cli.report import html
from rotograd_cli.report.html import Section
from rotograd_cli.runs.directory import status_of
from rotograd_cli.runs.history import evaluations
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.terminal import run_table, training_time

MAX_ROWS = 16
MAX_WARNINGS = 20


def title(summary: RunSummary) -> str:
    """Return the page's title: method and data."""
    return f"{summary.method_label or 'A run'} on {summary.data or 'unknown data'}"


def overview(run_dir: Path, summary: RunSummary) -> Section:
    """Return what was run, with which command, and what became of it."""
    status = status_of(run_dir, summary)
    parts = [
        html.facts(
            {
                "outcome": status,
                "seed": summary.seed,
                "tasks": _tasks(summary.tasks),
                _best(summary): _selected(summary),
                "examples": _numbers(summary.num_examples),
                "parameters": _numbers(summary.num_parameters),
                "started": summary.started,
                "folder": os.path.relpath(run_dir),
            }
        )
    ]
    if summary.error is not None:
        parts.append(f'<p class="error">{html.text(summary.error)}</p>')
    if not summary.is_finished:
        parts.append(html.sentence(_how_to_finish(run_dir, status)))
    if summary.command:
        parts.append(html.code(command_line(summary.command)))
    return Section("Run", "".join(parts))


def command_line(command: Sequence[str]) -> str:
    """Return the command of a run as a shell takes it; its first word may be two."""
    return " ".join((command[0], *map(shlex.quote, command[1:])))


def _how_to_finish(run_dir: Path, status: str) -> str:
    if status.startswith("no finite"):
        return "The run ended without an epoch that could be selected, so it has no test metrics."
    if status == "running":
        return "The run is going on: curves end where it was when this page was written."
    if status == "failed":
        # to go on with the same settings would mostly fail again
        return "The run failed: curves end where it stopped, and its error says what to change."
    resume = suggested("train", f"resume={os.path.relpath(run_dir)}")
    return f"The run is not finished: curves end where it stopped. It goes on with: {resume}"


def _best(summary: RunSummary) -> str:
    return "selected epoch" if summary.status == "finished" else "best epoch so far"


def _tasks(tasks: Sequence[str]) -> str | None:
    if not tasks:
        return None
    return ", ".join(tasks) if len(tasks) <= 12 else f"{len(tasks)}: {listed(tasks)}"


def _selected(summary: RunSummary) -> str | None:
    if not summary.selected_epoch or summary.averaged_epochs:
        return None
    return summary.measured_at.removeprefix("epoch ")


def _numbers(values: dict[str, int]) -> str | None:
    return ", ".join(f"{value:,} {name}" for name, value in values.items()) or None


def results(run_dir: Path, summary: RunSummary) -> Section:
    """Return the table of results, with the protocol by which they were measured.

    Of a run that has not ended it is the last evaluation.
    """
    words = f"Protocol: {summary.protocol}." if summary.protocol is not None else ""
    if not summary.metrics:
        evaluated = list(evaluations(run_dir))
        if not evaluated:
            words = "There are no results: they are recorded when the first epoch is over."
            return Section("Results", html.sentence(words))
        metrics = evaluated[-1]
        summary = dataclasses.replace(summary, metrics=metrics)
        selected = f"the best epoch so far is {summary.selected_epoch}"
        if not summary.selected_epoch:
            selected = "no epoch is selected"
        words = f"Of the last evaluation, epoch {metrics.get('epoch', 0):g}; {selected}."
    return Section("Results", _tables(run_table(summary)) + html.sentence(words))


def _tables(grid: Grid) -> str:
    """Return a table; a long one is folded away behind its statistics over tasks."""
    over_tasks = [row for row in grid.rows if row[0].text == "all"]
    if len(grid.rows) <= MAX_ROWS or len(over_tasks) < 2:
        return html.table(grid)
    short = dataclasses.replace(grid, rows=over_tasks)
    return html.table(short) + html.details("Every task", html.table(grid))


def environment(run_dir: Path, summary: RunSummary) -> Section:
    """Return where the run took place, its notes and its warnings."""
    numbers = {
        "device": summary.device,
        "threads": summary.num_threads,
        "processes": summary.num_ranks if summary.num_ranks > 1 else None,
        "training": _time(summary),
        "whole run": None if summary.wall_s is None else f"{summary.wall_s:,.1f} s",
        "commit": summary.commit,
        "data fingerprint": summary.data_fingerprint,
        **summary.versions,
    }
    parts = [html.facts(numbers)]
    for heading, lines in (("Notes", notes(summary)), ("Warnings", warnings(run_dir))):
        if lines:
            parts.append(f"<h3>{heading}</h3>{html.bullets(lines)}")
    config = _config(run_dir)
    if config:
        parts.append(html.details("Configuration (config.yaml)", html.code(config)))
    return Section("Environment", "".join(parts))


def _time(summary: RunSummary) -> str | None:
    if summary.train_s is None:
        return None
    return training_time(summary).removeprefix("Training steps took ").rstrip(".")


def notes(summary: RunSummary) -> list[str]:
    """Return what a reader must know of the numbers: a subset, skipped steps, resumptions."""
    lines = list(summary.notes)
    if summary.skipped_steps:
        lines.append(f"{summary.skipped_steps:,} steps were left out as not finite.")
    if summary.resumed_at_steps:
        steps = ", ".join(f"{step:,}" for step in summary.resumed_at_steps)
        lines.append(f"Resumed at step {steps}.")
    return lines


def warnings(run_dir: Path) -> list[str]:
    """Return the warnings and errors of ``train.log``, each once, without their times."""
    found: dict[str, None] = {}
    for line in _text(run_dir / "train.log").splitlines():
        _, _, rest = line.partition(",")
        level, _, message = rest.partition(" ")[2].partition(" ")
        if level in ("WARNING", "ERROR", "CRITICAL"):
            found[message] = None
    lines = list(found)
    more = len(lines) - MAX_WARNINGS
    return [*lines[:MAX_WARNINGS], *([f"and {more:,} more in train.log"] if more > 0 else [])]


def _config(run_dir: Path) -> str:
    return _text(run_dir / "config.yaml")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
