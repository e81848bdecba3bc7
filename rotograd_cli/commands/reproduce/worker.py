"""What happens in the process of a cell, whichever launcher started it."""

import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rotograd_cli.commands.reproduce.cells import is_finished
from rotograd_cli.errors import CheckpointError, RotogradError
from rotograd_cli.runs.config import TrainConfig, to_train_config
from rotograd_cli.runs.directory import record_failure
from rotograd_cli.runs.experiment import train
from rotograd_cli.runs.identity import holds_run
from rotograd_cli.runs.messages import describe_failure
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.training.checkpoint import load_newest


def train_cell(config: DictConfig) -> None:
    """Trains one cell in its own folder; a failure is recorded there and stops nothing else.

    An interrupted attempt is gone on with from its last checkpoint. Where another process is
    training the same cell, its result is waited for.

    Args:
        config: Composed configuration of the run, with Hydra's own node.
    """
    hydra = HydraConfig.get()
    run_dir = Path(hydra.runtime.output_dir)
    overrides = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    words = [str(word) for word in overrides] if isinstance(overrides, list) else []
    name = f"run {hydra.job.num + 1}, {run_dir.name} ({' '.join(words)})"
    with _own(run_dir, lambda: _say(f"{name}: another process is training it; waiting")):
        typed = to_train_config(config)
        if is_finished(run_dir, typed):
            return  # by another process, after the plan was made
        resume = _can_go_on(run_dir, typed)
        if not resume:
            _empty(run_dir)
        start = time.monotonic()
        try:
            summary = train(typed, run_dir, words, quiet=True, resume=resume)
        except Exception as error:  # whatever it is, the other cells must run
            if not isinstance(error, RotogradError):
                traceback.print_exc()
            record_failure(run_dir, words, describe_failure(error))
            _say(f"{name}: failed: {describe_failure(error)}")
            return
        value = summary.selected_value
        shown = "has no finite value" if value is None else f"{value:.4g}"
        _say(f"{name}: {summary.select} {shown}, {time.monotonic() - start:.0f} s")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _can_go_on(run_dir: Path, config: TrainConfig) -> bool:
    """Whether an interrupted attempt of this very run left a checkpoint that can be read.

    One that failed begins anew: it would fail in the same step again.
    """
    summary = RunSummary.read(run_dir)
    failed = summary is not None and summary.status == "failed"
    if failed or not holds_run(run_dir, config):
        return False
    try:
        return load_newest(run_dir / "checkpoints") is not None
    except CheckpointError:
        return False


def _empty(folder: Path) -> None:
    """Removes what an unfinished run left."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _own(run_dir: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """The folder to itself, as soon as no other process has it; the claim ends with the process."""
    import fcntl  # POSIX only, and only this needs it

    run_dir.mkdir(parents=True, exist_ok=True)
    # beside the folder, and never removed: a process that waits has this very file open
    with (run_dir.parent / f".{run_dir.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
