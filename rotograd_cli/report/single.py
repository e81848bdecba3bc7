"""The page on one run."""

import logging
from pathlib import Path

from rotograd_cli.config.schema import ReportConfig
from rotograd_cli.errors import DatasetError, RotogradError, first_line, one_line
from rotograd_cli.report import html
from rotograd_cli.report.curves import curves
from rotograd_cli.report.gradients import gradients
from rotograd_cli.report.html import Section
from rotograd_cli.report.measured import Measured
from rotograd_cli.report.overview import environment, overview, results, title
from rotograd_cli.report.page import Charts, render
from rotograd_cli.report.predictions import examples_section, tasks_section
from rotograd_cli.report.series import History
from rotograd_cli.runs.directory import status_of, unfinished
from rotograd_cli.runs.history import read_history
from rotograd_cli.runs.summary import RunSummary

_LOG = logging.getLogger(__name__)


def run_page(run_dir: Path, config: ReportConfig) -> str:
    """Return the page on a run, as far as the run has come.

    Args:
        run_dir: The run.
        config: Checked configuration.
    """
    summary = RunSummary.read(run_dir) or RunSummary(status="no summary")
    page = Charts()
    sections = [overview(run_dir, summary), results(run_dir, summary)]
    try:
        history = read_history(run_dir)
    except DatasetError as error:
        sections.append(Section("Learning curves", html.sentence(one_line(str(error)))))
    else:
        sections += _recorded(history, summary, page)
    measured = _measured(run_dir, config)
    sections.append(tasks_section(measured, summary, config.split, unfinished(run_dir), page))
    sections.append(examples_section(measured, config.split))
    sections.append(environment(run_dir, summary))
    return render(title(summary), _subtitle(run_dir, summary), sections, page)


def _recorded(history: History, summary: RunSummary, page: Charts) -> list[Section]:
    return [curves(history, summary, page), gradients(history, summary, page)]


def _subtitle(run_dir: Path, summary: RunSummary) -> str:
    parts = [f"seed {summary.seed}", status_of(run_dir, summary)]
    if summary.started is not None:
        parts.append(summary.started.partition("T")[0])
    return " · ".join(parts)


def _measured(run_dir: Path, config: ReportConfig) -> Measured | str:
    """Return what a checkpoint predicts, or in one sentence why nothing is predicted."""
    if config.examples == 0:
        return "Nothing was predicted, because examples=0."
    from rotograd_cli.report.loading import measure_run

    try:
        return measure_run(run_dir, config)
    except RotogradError as error:
        return f"Predictions are not shown: {one_line(str(error))}"
    except Exception as error:  # of a user's data set, network or images()
        _LOG.debug("Predictions of %s failed.", run_dir, exc_info=True)
        return f"Predictions are not shown: {type(error).__name__}: {first_line(error)}"
