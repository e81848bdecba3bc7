"""Cells of a sweep: one is trained, and what became of all of them is printed."""

import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from rotograd_cli.commands.support import session
from rotograd_cli.errors import (
    RUN_FAILED,
    ConfigError,
    OccupiedError,
    Refusal,
    RotogradError,
    exit_code,
)
from rotograd_cli.printing.grid import print_grid
from rotograd_cli.ranks.launch import job_rank
from rotograd_cli.runs.directory import is_used
from rotograd_cli.runs.messages import describe_failure
from rotograd_cli.runs.report import common_overrides, remarks, sweep_table
from rotograd_cli.runs.summary import RunSummary


def is_search(hydra: DictConfig) -> bool:
    """Return whether the sweeper draws cells one after the other, from earlier results.

    Args:
        hydra: Hydra's own node.
    """
    return "BasicSweeper" not in str(hydra.sweeper._target_)


def run_cell(
    train: Callable[[], RunSummary], overrides: Sequence[str], hydra: DictConfig
) -> RunSummary:
    """Train a cell; its failure is recorded in its directory, and the others run.

    Args:
        train: Trains it and returns its summary.
        overrides: The cell's overrides.
        hydra: Hydra's own node.

    Returns:
        The summary; empty after a failure.

    Raises:
        Refusal: If a search meets another run in the folder of a trial, which ends the search.
    """
    number = hydra.job.num
    if job_rank() == 0:
        print(f"cell {number}: {' '.join(overrides)}", file=sys.stderr)
    try:
        return train()
    except Exception as error:  # whatever it is, the other cells must run
        if job_rank() > 0:
            raise
        if isinstance(error, OccupiedError) and is_search(hydra):
            raise Refusal(error) from error  # a sweeper may go on after an exception
        run_dir = Path(hydra.runtime.output_dir)
        summary = failed_cell(error, f"cell {number}", overrides, run_dir)
        if exit_code(error) != RUN_FAILED:  # else the run has recorded it
            session.refused[run_dir] = summary
        return RunSummary()


def failed_cell(error: Exception, name: str, overrides: Sequence[str], run_dir: Path) -> RunSummary:
    """Print why a cell failed, and record it unless its folder holds a run, which has its own.

    Args:
        error: What ended it; a bug gets its traceback too.
        name: The cell in messages.
        overrides: The cell's overrides.
        run_dir: Its folder.

    Returns:
        The summary.
    """
    if not isinstance(error, RotogradError):
        traceback.print_exc()
    reason = describe_failure(error)
    print(f"{name} failed: {reason}", file=sys.stderr, flush=True)
    summary = RunSummary(status="failed", overrides=list(overrides), error=reason)
    if not is_used(run_dir):
        summary.write(run_dir)
    return summary


def print_status(sweep_dir: Path) -> None:
    """Print a row per cell and what a search found; record the cells that failed.

    Args:
        sweep_dir: Folder of the sweep.
    """
    cells = {cell.name: _summary(cell) for cell in _folders(sweep_dir)}
    session.refused.clear()
    summaries = [summary for summary in cells.values() if summary is not None]
    print_grid(sweep_table(list(cells.items())))
    common = common_overrides(summaries)
    if common:
        print(f"In all cells: {' '.join(common)}")
    notes = remarks(note for summary in summaries for note in summary.notes)
    for line in (*notes, *_best(sweep_dir), f"Sweep directory: {sweep_dir}"):
        print(line)
    _record_failures(sweep_dir, cells)


def print_unfinished() -> None:
    """Print the status of a sweep that its launcher gave up."""
    for sweep_dir in session.sweep_dirs:
        if sweep_dir.is_dir():
            print_status(sweep_dir)
    session.sweep_dirs.clear()


def _folders(sweep_dir: Path) -> list[Path]:
    folders = [p for p in sweep_dir.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return sorted(folders, key=lambda folder: (len(folder.name), folder.name))  # 2 before 10


def _summary(cell: Path) -> RunSummary | None:
    """What became of a cell that was refused in this process; a run in its folder keeps its own."""
    return session.refused.get(cell.absolute()) or RunSummary.read(cell)


def _record_failures(sweep_dir: Path, cells: Mapping[str, RunSummary | None]) -> None:
    if not cells:
        session.failures.append(f"{sweep_dir}: no cell; give the sweep's keys at least one value.")
    for name, summary in cells.items():
        result = summary or RunSummary(status="no result")
        if not result.is_finished:
            session.failures.append(f"{sweep_dir / name}: {result.error or result.outcome}")


def _best(sweep_dir: Path) -> list[str]:
    """What a search found, as overrides for the next run."""
    file = sweep_dir / "optimization_results.yaml"
    if not file.is_file():
        return []
    result = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "best_params" not in result:  # several objectives
        return [f"Results of the search: {file}"]
    if not math.isfinite(result["best_value"]):  # what a trial without a value was given
        reason = "No trial finished; fix what the failed cells name, or search other ranges."
        session.failures.append(f"{sweep_dir}: {reason}")
        return [reason]
    overrides = " ".join(f"{key}={value}" for key, value in result["best_params"].items())
    return [f"Best value {result['best_value']:.6g} with {overrides}"]


def check_direction(sweeper: Mapping[str, Any], select_mode: str) -> None:
    """Refuse a search that goes the other way than the selection of epochs.

    Args:
        sweeper: Hydra's sweeper; only those that search have a ``direction``.
        select_mode: ``min`` or ``max``.

    Raises:
        ConfigError: If they disagree.
    """
    direction = sweeper.get("direction")
    name = getattr(direction, "name", direction)
    expected = f"{select_mode}imize"
    if name not in (None, expected):
        raise ConfigError(
            f"`hydra.sweeper.direction` must be {expected}, as train.select_mode is {select_mode}, "
            f"got {name}; sweep=optuna sets it."
        )
