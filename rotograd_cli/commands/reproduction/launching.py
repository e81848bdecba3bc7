"""Cells are trained through any of Hydra's launchers, each in a process and folder of its own."""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from rotograd_cli.commands.reproduction.cells import Cell, finished_summary
from rotograd_cli.commands.sweeps.cells import failed_cell
from rotograd_cli.config.compose import composing
from rotograd_cli.config.overrides import explaining
from rotograd_cli.config.schema import TrainConfig, to_train_config
from rotograd_cli.errors import CheckpointError, hydra_value
from rotograd_cli.runs.directory import CHECKPOINTS
from rotograd_cli.runs.experiment import train
from rotograd_cli.runs.saved import holds_run
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.training.checkpoint import load_newest
from rotograd_cli.training.interrupts import check_late


def launch(cells: Sequence[Cell], overrides: Sequence[str]) -> None:
    """Train cells, in their order as far as the launcher keeps one.

    Hydra's sweepers combine values; here every job is known, so that the launcher is asked as
    Hydra's own multirun asks it, with one job per cell.

    Args:
        cells: Cells whose folders have the same parent.
        overrides: The user's choice of launcher (``launcher=local``, ``hydra/launcher=joblib``,
            ``hydra.launcher.n_jobs=2``).
    """
    if not cells:
        return
    jobs = [[*cell.overrides, f"hydra.sweep.subdir={cell.run_dir.name}"] for cell in cells]
    multirun = [
        "hydra.mode=MULTIRUN",
        f"hydra.sweep.dir={hydra_value(str(cells[0].run_dir.parent))}",
        "~hydra.callbacks.folders",
    ]
    with composing(), explaining("train", overrides):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("train", [*overrides, *multirun], RunMode.MULTIRUN)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=train_cell, config=config
        )
        launcher.launch(jobs, initial_job_idx=0)


def train_cell(config: DictConfig) -> None:
    """Train one cell in its own folder; a failure is recorded there and stops nothing else.

    An interrupted attempt continues from its last checkpoint. Where another process is training
    the same cell, this one waits for its result.

    Args:
        config: Composed configuration of the run, with Hydra's own node.
    """
    hydra = HydraConfig.get()
    run_dir = Path(hydra.runtime.output_dir)
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    name = f"run {hydra.job.num + 1}, {run_dir.name} ({' '.join(overrides)})"
    typed = to_train_config(config)
    with _locked(run_dir, name):
        if finished_summary(run_dir, typed) is not None:
            return  # by another process, after the plan was made
        resume = _can_resume(run_dir, typed)
        if not resume:
            shutil.rmtree(run_dir)  # what an unfinished run left
            run_dir.mkdir()
        try:
            _train(typed, run_dir, overrides, resume, name)
        except Exception as error:  # whatever it is, the other cells must run
            failed_cell(error, name, overrides, run_dir)


def _train(
    config: TrainConfig, run_dir: Path, overrides: list[str], resume: bool, name: str
) -> None:
    start = time.monotonic()
    summary = train(config, run_dir, overrides, screen=None, resume=resume)
    value = summary.selected_value
    shown = "has no finite value" if value is None else f"{value:.4g}"
    _say(f"{name}: {summary.select} {shown}, {time.monotonic() - start:.0f} s")
    check_late()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _can_resume(run_dir: Path, config: TrainConfig) -> bool:
    """Whether an interrupted attempt of this very run left a checkpoint that can be read.

    One that failed begins anew: it would fail in the same step again.
    """
    summary = RunSummary.read(run_dir)
    has_failed = summary is not None and summary.status == "failed"
    if has_failed or not holds_run(run_dir, config):
        return False
    try:
        return load_newest(run_dir / CHECKPOINTS) is not None
    except CheckpointError:
        return False


def _locked(run_dir: Path, name: str) -> AcquireReturnProxy[Any]:
    """Return the cell's lock, waiting for other processes; it ends with the process."""
    run_dir.mkdir(parents=True, exist_ok=True)
    # beside the folder, which may be emptied
    lock = FileLock(run_dir.parent / f".{run_dir.name}.lock")
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        _say(f"{name}: another process is training it; waiting")
        return lock.acquire()
