"""Hydra's callbacks: the folders it makes, and what became of every cell of a sweep."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.commands.sweep_folder import check_sweep_folder
from rotograd_cli.errors import ConfigError, Refusal
from rotograd_cli.printing.terminal import print_grid
from rotograd_cli.ranks.launch import job_rank
from rotograd_cli.runs.directory import check_own_folder, refuse_used
from rotograd_cli.runs.report import common_overrides, remarks, sweep_table
from rotograd_cli.runs.summary import RunSummary

failures: list[str] = []
"""Cells of the sweeps of this process that did not finish; the exit code depends on it."""

refused: dict[Path, RunSummary] = {}
"""What became of cells of this process that did not begin; a run in their folder keeps its own."""

_new_folders: list[Path] = []
_note: list[tuple[Path, bytes, os.stat_result]] = []
"""The note that Hydra made of an earlier sweep in the same folder, and will replace."""


class NewFolders(Callback):
    """Looks at folders before Hydra makes them, which it does before the input is checked.

    A folder that holds a run is refused, and what is new is remembered.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A single run. Its folder is named after Hydra's own values, which this makes known."""
        del kwargs
        HydraConfig.instance().set_config(config)
        _remember(config.hydra.run)
        with refusing(), suppress(OmegaConfBaseException):  # Hydra is about to say so
            if job_rank() == 0 and config.get("resume") in (None, "auto"):
                run_dir = Path(config.hydra.run.dir)
                check_own_folder(run_dir)
                if config.get("resume") is None:
                    refuse_used(run_dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A sweep."""
        del kwargs
        _remember(config.hydra.sweep)
        with refusing():
            check_sweep_folder(config)


@contextmanager
def refusing() -> Iterator[None]:
    """Inside a callback of Hydra, an exception ends the command instead of becoming a warning."""
    try:
        yield
    except Exception as error:
        raise Refusal(error) from error


def _remember(node: DictConfig) -> None:
    _new_folders.clear()
    _note.clear()
    with suppress(OmegaConfBaseException, OSError):  # Hydra is about to say so
        folder = Path(node.dir).absolute()
        _new_folders.extend(f for f in (folder, *folder.parents) if not os.path.lexists(f))
        note = folder / "multirun.yaml"
        if note.is_file():
            _note.append((note, note.read_bytes(), note.stat()))


def remove_unused_folders() -> None:
    """Takes back the new folders that hold nothing, or only the note of a sweep without cells.

    An earlier sweep's note is put back as it was.
    """
    for note, content, stat in _note:
        with suppress(OSError):
            if note.stat().st_mtime_ns != stat.st_mtime_ns:
                note.write_bytes(content)
                os.utime(note, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for folder in _new_folders:
        with suppress(OSError):  # not empty, or never made
            if [path.name for path in folder.iterdir()] == ["multirun.yaml"]:
                (folder / "multirun.yaml").unlink()
            folder.rmdir()
    _new_folders.clear()
    _note.clear()


_under_way: list[Path] = []
"""The sweep that began and has not ended."""


class SweepStatus(Callback):
    """Hydra callback that prints status and test metrics of every cell."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remembers the sweep for :func:`print_unfinished`."""
        del kwargs
        with suppress(OmegaConfBaseException):  # Hydra is about to say so
            _under_way[:] = [Path(config.hydra.sweep.dir)]

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the cells' summaries below the sweep's directory, so every launcher is served."""
        del kwargs
        _under_way.clear()
        _print_status(Path(config.hydra.sweep.dir))


def print_unfinished() -> None:
    """Status of the cells of a sweep that its launcher gave up."""
    for sweep_dir in _under_way:
        if sweep_dir.is_dir():
            _print_status(sweep_dir)
    _under_way.clear()


def _print_status(sweep_dir: Path) -> None:
    cells = sorted(
        (p for p in sweep_dir.iterdir() if p.is_dir() and not p.name.startswith(".")),
        key=lambda path: (len(path.name), path.name),
    )
    summaries = [
        (cell.name, refused.get(cell.absolute()) or RunSummary.read(cell)) for cell in cells
    ]
    known = [summary for _, summary in summaries if summary is not None]
    refused.clear()
    print_grid(sweep_table(summaries))
    common = common_overrides(known)
    if common:
        print(f"In all cells: {' '.join(common)}")
    for line in (
        *remarks(note for summary in known for note in summary.notes),
        *_best(sweep_dir),
        f"Sweep directory: {sweep_dir}",
    ):
        print(line)
    if not summaries:
        failures.append(f"{sweep_dir}: no cell; give the keys of the sweep at least one value.")
    for cell, summary in summaries:
        result = summary or RunSummary(status="no result")
        if not result.is_finished:
            failures.append(f"{sweep_dir / cell}: {result.error or result.outcome}")


def check_direction(sweeper: Mapping[str, Any], select_mode: str) -> None:
    """Refuses a search that goes the other way than the selection of epochs.

    Args:
        sweeper: Hydra's sweeper; only those that search have a ``direction``.
        select_mode: ``min`` or ``max``.

    Raises:
        ConfigError: If they disagree.
    """
    direction = sweeper.get("direction")
    wanted = f"{select_mode}imize"
    if direction is not None and getattr(direction, "name", direction) != wanted:
        raise ConfigError(
            f"`hydra.sweeper.direction` must be {wanted}, as train.select_mode is {select_mode}, "
            f"got {getattr(direction, 'name', direction)}; sweep=optuna sets it."
        )


def _best(sweep_dir: Path) -> list[str]:
    """What a search found, as overrides for the next run."""
    file = sweep_dir / "optimization_results.yaml"
    if not file.is_file():
        return []
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "best_params" not in found:  # several objectives
        return [f"Results of the search: {file}"]
    if not math.isfinite(found["best_value"]):  # what a trial without a value was given
        reason = "No trial finished; fix what the failed cells name, or search other ranges."
        failures.append(f"{sweep_dir}: {reason}")
        return [reason]
    words = " ".join(f"{key}={value}" for key, value in found["best_params"].items())
    return [f"Best value {found['best_value']:.6g} with {words}"]
