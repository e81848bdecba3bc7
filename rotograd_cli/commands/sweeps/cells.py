"""Sweeps: their folders are checked before the first cell, each cell is trained, all are shown."""

import math
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.commands.support import session
from rotograd_cli.config.messages import describe_failure
from rotograd_cli.config.schema import to_train_config
from rotograd_cli.errors import (
    RUN_FAILED,
    ConfigError,
    OccupiedError,
    Refusal,
    RotogradError,
    exit_code,
    listed,
    suggested,
)
from rotograd_cli.printing.grid import Grid, print_grid
from rotograd_cli.ranks.launch import job_rank
from rotograd_cli.runs.directory import is_used, refuse_used
from rotograd_cli.runs.saved import holds_run
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.sweep import Cells, common_overrides, sweep_table, write_sweep
from rotograd_cli.runs.terminal import remarks
from rotograd_cli.tracking.console import Screen
from rotograd_cli.training.interrupts import check_late

MAX_NAMED = 8


class Folders(Callback):
    """Checks folders before Hydra makes them, which it does before the input is checked.

    A folder that holds a run is refused, and what is new is remembered. After a sweep, status and
    test metrics of every cell are printed.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run. Its folder refers to Hydra's values, which must be set for that."""
        HydraConfig.instance().set_config(config)
        run_dir = _remembered(config.hydra.run)
        resume = config.get("resume")
        if run_dir is None or job_rank() > 0 or resume not in (None, "auto"):
            return
        with refusing():
            if run_dir.resolve() == Path.cwd():
                raise ConfigError(
                    "`hydra.run.dir` must be a folder of its own, got the current one."
                )
            if resume is None:
                refuse_used(run_dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a sweep, and remember it, as its launcher may fail."""
        sweep_dir = _remembered(config.hydra.sweep)
        with refusing():
            session.foreign[:] = check_sweep(config, sweep_dir)
        session.sweep_dirs[:] = [] if sweep_dir is None else [sweep_dir]

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the cells' summaries below the sweep's directory, so every launcher is served."""
        session.sweep_dirs.clear()
        search = config.train.select_mode if is_search(config.hydra) else None
        print_status(Path(config.hydra.sweep.dir), search)


@contextmanager
def refusing() -> Iterator[None]:
    """Inside a callback of Hydra, an exception ends the command instead of becoming a warning."""
    try:
        yield
    except Exception as error:
        raise Refusal(error) from error


def _remembered(node: DictConfig) -> Path | None:
    """Return the folder of a run or sweep, noting which parts of its path are new."""
    session.forget_folders()
    try:
        folder = Path(node.dir)
    except OmegaConfBaseException:
        return None  # Hydra is about to say so
    session.remember_folder(folder)
    return folder


def check_sweep(config: DictConfig, sweep_dir: Path | None) -> list[Path]:
    """Refuse a sweep whose cells would find other runs in their folders, before its first cell.

    Args:
        config: What Hydra composed for the sweep, with its own node.
        sweep_dir: Folder of the sweep; None where it does not resolve.

    Returns:
        What is in that folder and belongs to none of its cells.

    Raises:
        OccupiedError: If a cell's folder holds a run, or with ``resume=auto`` the run of another
            configuration. A search draws its cells as it goes: its cells ask for themselves.
        ConfigError: If ``resume`` names a folder.
    """
    resume = config.get("resume")
    if resume not in (None, "auto"):
        raise ConfigError(
            f"`resume` must be auto in a sweep, whose cells each have a folder, got {resume!r}."
        )
    if sweep_dir is None or not sweep_dir.is_dir():
        return []
    if is_used(sweep_dir):
        raise OccupiedError(
            f"{sweep_dir} holds a run, got a sweep; choose another hydra.sweep.dir."
        )
    before = HydraConfig.instance().cfg
    try:
        is_occupied = {
            folder: _is_occupied(folder, cell) for folder, cell in _cells(config, sweep_dir)
        }
    finally:
        HydraConfig.instance().cfg = before
    occupied = [folder for folder, is_used_up in is_occupied.items() if is_used_up]
    if occupied:
        raise OccupiedError(_message(sweep_dir, occupied, resume))
    return [path for path in sweep_dir.iterdir() if path not in is_occupied]


def _cells(config: DictConfig, sweep_dir: Path) -> Iterator[tuple[Path, DictConfig]]:
    """Yield folder and configuration of every cell; those of a search lack the drawn values."""
    compose = GlobalHydra.instance().config_loader().load_sweep_config
    for number, overrides in enumerate(_jobs(config)):
        cell = compose(config, list(overrides)) if overrides else config.copy()
        with open_dict(cell):
            cell.hydra.job.id = number
            cell.hydra.job.num = number
        HydraConfig.instance().set_config(cell)  # the folder's name refers to it
        yield sweep_dir / str(cell.hydra.sweep.subdir), cell


def _jobs(config: DictConfig) -> Sequence[Sequence[str]]:
    """Return the overrides of every cell, as Hydra's own sweeper combines them.

    Trials of a search have none.
    """
    sweeper = config.hydra.sweeper
    if is_search(config.hydra):
        return [[]] * int(sweeper.get("n_trials") or 0)
    overrides: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides([*params, *overrides]), None)
    return jobs


def _is_occupied(folder: Path, cell: DictConfig) -> bool:
    """Whether a folder holds something that the run of a cell would not continue."""
    if cell.resume is None:
        return is_used(folder) or (folder / "summary.json").exists()
    if is_search(cell.hydra):
        return False  # its trial checks itself
    plain = cell.copy()
    with open_dict(plain):
        del plain["hydra"]
    try:
        return is_used(folder) and not holds_run(folder, to_train_config(plain))
    except ConfigError:  # wrong input, which is no configuration of a run
        return True


def _message(sweep_dir: Path, occupied: Sequence[Path], resume: str | None) -> str:
    where = listed([str(folder.relative_to(sweep_dir)) for folder in occupied], MAX_NAMED)
    what = "already holds runs"
    remedy = ", or add resume=auto to continue runs of the same configuration"
    if resume is not None:
        what = "holds runs of other configurations"
        remedy = ""
    return f"{sweep_dir} {what}, in {where}; choose another hydra.sweep.dir{remedy}."


def is_search(hydra: DictConfig) -> bool:
    """Return whether the sweeper draws cells one after the other, from earlier results.

    Args:
        hydra: Hydra's own node.
    """
    return "BasicSweeper" not in str(hydra.sweeper._target_)


def cell_screen(hydra: DictConfig) -> Screen:
    """Return what a cell shows: lines with its number; a bar unless cells run side by side.

    Args:
        hydra: Hydra's own node.
    """
    is_alone = "BasicLauncher" in str(hydra.launcher._target_)
    return Screen(label=f"cell {hydra.job.num}: ", has_bar=is_alone)


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
        summary = train()
        check_late()
        return summary
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


def print_status(sweep_dir: Path, search: str | None = None) -> None:
    """Print and write a row per cell and what a search found; record the cells that failed.

    Args:
        sweep_dir: Folder of the sweep.
        search: ``min`` or ``max`` for a search.
    """
    cells_and_files = set(sweep_dir.iterdir()) - set(session.foreign)
    folders = [p for p in cells_and_files if p.is_dir() and not p.name.startswith(".")]
    folders.sort(key=lambda folder: (len(folder.name), folder.name))  # 2 before 10
    # what was refused in this process; a run in the folder keeps its own
    cells = {f.name: session.refused.get(f.absolute()) or RunSummary.read(f) for f in folders}
    session.refused.clear()
    table = sweep_table(list(cells.items()), search)
    lines = _remarks(sweep_dir, [summary for summary in cells.values() if summary is not None])
    print_grid(table)
    print(*lines, f"Sweep directory: {sweep_dir}", sep="\n")
    if cells:
        _write(sweep_dir, list(cells.items()), table, lines)
    print(*_next_commands(sweep_dir, list(cells.values())), sep="\n", end="")
    _record_failures(sweep_dir, cells)


def _remarks(sweep_dir: Path, summaries: Sequence[RunSummary]) -> list[str]:
    """Return the lines below the table."""
    common = common_overrides(summaries)
    shared = [f"In all cells: {shlex.join(common)}"] if common else []
    notes = remarks(note for summary in summaries for note in summary.notes)
    return [*shared, *notes, *_best(sweep_dir)]


def _write(sweep_dir: Path, cells: Cells, table: Grid, lines: Sequence[str]) -> None:
    try:
        files = write_sweep(sweep_dir, cells, table, lines)
    except OSError as error:
        session.failures.append(f"{sweep_dir}: its table cannot be written ({error.strerror}).")
    else:
        print(f"Files: {', '.join(str(file) for file in files)}")


def _next_commands(sweep_dir: Path, cells: Sequence[RunSummary | None]) -> list[str]:
    """Return the commands that show a sweep's runs; a table takes those of one data set alone."""
    finished = [summary for summary in cells if summary is not None and summary.is_finished]
    if len({summary.data for summary in finished}) != 1:
        return []
    commands = [suggested(command, f"runs={sweep_dir}") for command in ("table", "report")]
    return ["Next:", *(f"  {command}" for command in commands), ""]


def print_unfinished() -> None:
    """Print the status of a sweep that its launcher gave up."""
    for sweep_dir in session.sweep_dirs:
        if sweep_dir.is_dir():
            print_status(sweep_dir)
    session.sweep_dirs.clear()


def _record_failures(sweep_dir: Path, cells: Mapping[str, RunSummary | None]) -> None:
    if not cells:
        session.failures.append(f"{sweep_dir}: no cell; give the sweep's keys at least one value.")
    for name, summary in cells.items():
        result = summary or RunSummary(status="no result")
        if not result.is_finished:
            session.failures.append(f"{sweep_dir / name}: {result.error or result.outcome}")


def _best(sweep_dir: Path) -> list[str]:
    """Return the best trial of a search, as overrides for the next run."""
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
