"""What happens in the process of a cell, whichever launcher started it."""

import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rotograd_cli.commands.reproduction.cells import is_finished
from rotograd_cli.errors import CheckpointError, RotogradError
from rotograd_cli.runs.config import TrainConfig, to_train_config
from rotograd_cli.runs.directory import CHECKPOINTS, record_failure
from rotograd_cli.runs.experiment import train
from rotograd_cli.runs.identity import holds_run
from rotograd_cli.runs.messages import describe_failure
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.training.checkpoint import load_newest


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
        if is_finished(run_dir, typed):
            return  # by another process, after the plan was made
        resume = _can_resume(run_dir, typed)
        if not resume:
            _empty(run_dir)
        try:
            _train(typed, run_dir, overrides, resume, name)
        except Exception as error:  # whatever it is, the other cells must run
            if not isinstance(error, RotogradError):
                traceback.print_exc()
            record_failure(run_dir, overrides, describe_failure(error))
            _say(f"{name}: failed: {describe_failure(error)}")


def _train(
    config: TrainConfig, run_dir: Path, overrides: list[str], resume: bool, name: str
) -> None:
    start = time.monotonic()
    summary = train(config, run_dir, overrides, quiet=True, resume=resume)
    value = summary.selected_value
    shown = "has no finite value" if value is None else f"{value:.4g}"
    _say(f"{name}: {summary.select} {shown}, {time.monotonic() - start:.0f} s")


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


def _empty(folder: Path) -> None:
    """Remove what an unfinished run left."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _locked(run_dir: Path, name: str) -> Iterator[None]:
    """Inside, no other process trains this cell; the lock ends with the process."""
    run_dir.mkdir(parents=True, exist_ok=True)
    # beside the folder, which may be emptied
    lock = FileLock(run_dir.parent / f".{run_dir.name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _say(f"{name}: another process is training it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
