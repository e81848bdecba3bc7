"""``rotograd train``: one run, from its configuration to its summary."""

import logging
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rotograd_cli.errors import NonFiniteError, run_under_way, suggested
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.runs import description
from rotograd_cli.runs.building import build_run
from rotograd_cli.runs.components import Constructors
from rotograd_cli.runs.config import TrainConfig
from rotograd_cli.runs.device import memory_errors
from rotograd_cli.runs.directory import (
    CHECKPOINTS,
    RunFolder,
    claimed,
    log_file,
    refuse_other_data,
)
from rotograd_cli.runs.messages import describe_failure
from rotograd_cli.runs.recorder import RunRecorder
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.trust import word_for
from rotograd_cli.tracking.console import ConsoleTracker
from rotograd_cli.training import interrupts
from rotograd_cli.training.loop import Trainer
from rotograd_cli.training.precision import compilation

logger = logging.getLogger(__name__)


@memory_errors()
def train(
    config: TrainConfig,
    run_dir: Path,
    overrides: Sequence[str] = (),
    *,
    quiet: bool = False,
    resume: bool = False,
    ranks: Ranks = ONE,
) -> RunSummary:
    """Train one run and write its directory.

    Nothing is written before every component has been built and found to fit.

    Args:
        config: Checked configuration.
        run_dir: Run directory; created if absent.
        overrides: What the user changed, recorded in the summary.
        quiet: Say nothing on the terminal below a warning.
        resume: Go on from the newest checkpoint in the directory, if there is one.
        ranks: The processes that train together; the first one writes, the others call this with
            the same arguments.

    Returns:
        What is recorded of the run; on other ranks, the metrics alone.

    Raises:
        RotogradError: If the input is wrong.
    """
    constructors = Constructors(config)
    run, dataset = build_run(config, constructors, ranks)
    recorder = RunRecorder()
    trainer = Trainer(
        run,
        dataset,
        config.train,
        recorder,
        checkpoint_dir=run_dir / CHECKPOINTS,
        checkpoint_options=config.checkpoints,
        seed=config.seed,
        config=asdict(config),
    )
    if resume:
        data_dir = config.paths.data_dir
        ranks.broadcast(lambda: refuse_other_data(run_dir, dataset.fingerprint, data_dir))
    if not ranks.is_first:
        return _follow(trainer, run_dir, resume=resume)
    with claimed(run_dir) as folder, log_file(run_dir / "train.log", quiet=quiet):
        positions = trainer.checkpoints.resume() if resume else None
        folder.begin(None if resume else trainer.config)
        folder.summary = _first_summary(trainer, folder, overrides, resumed=positions is not None)
        folder.write()  # a run that is killed has said what it trained on
        with _recorded(folder, trainer, recorder):
            with _under_way(trainer, run_dir):
                recorder.open_file(run_dir, positions or {})
                tracking = {"config": trainer.config, "tags": config.tags}
                recorder.add(constructors.logger(run_dir=run_dir, **tracking))
                if not quiet:
                    select = trainer.selection.key
                    recorder.add(ConsoleTracker(num_epochs=config.train.epochs, select=select))
                metrics = trainer.fit()
            folder.note(status="finished", metrics=metrics)
    return folder.summary


def _first_summary(
    trainer: Trainer, folder: RunFolder, overrides: Sequence[str], *, resumed: bool
) -> RunSummary:
    """Return the summary of a run before its first step, and announce the run."""
    run = trainer.run
    summary = description.begun(trainer, overrides)
    if resumed:
        before = RunSummary.read(folder.path)
        summary = description.resumed(summary, before, run.state.step)
    logger.info(
        "%s on %s (%s), seed %d, %s: %s%s",
        summary.method,
        summary.data,
        ", ".join(summary.tasks),
        summary.seed,
        run.device,
        os.path.relpath(folder.path),
        f", on from step {run.state.step}" if resumed else "",
    )
    return summary


@contextmanager
def _recorded(folder: RunFolder, trainer: Trainer, recorder: RunRecorder) -> Iterator[None]:
    """Write what became of a run, however it ends."""
    try:
        yield
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        folder.note(status=status, error=describe_failure(error))
        logger.debug("%s", traceback.format_exc())
        if isinstance(error, interrupts.StopRequested):
            command = _command(trainer, folder.path)
            step = trainer.run.state.step
            logger.info("Stopped after step %d; continue with: %s", step, command)
            interrupts.hand_on(error)
        raise
    finally:
        folder.summary = description.progressed(folder.summary, trainer.run)
        with run_under_way():
            folder.write()
            recorder.finish(folder.summary.content())


@contextmanager
def _under_way(trainer: Trainer, run_dir: Path) -> Iterator[None]:
    """Inside, a run trains: an error is the run's failure, an interrupt waits for the step.

    A step that is not finite ends with the command that shows where it began.
    """
    is_compiled = trainer.config["compile"]
    with run_under_way(), interrupts.deferring(), memory_errors(), compilation(is_compiled):
        try:
            yield
        except NonFiniteError as error:
            command = _command(trainer, run_dir, "debug=nonfinite")
            raise NonFiniteError(f"{error} {command} shows where it began.") from error


def _command(trainer: Trainer, run_dir: Path, *overrides: str) -> str:
    """Return a command that resumes the run."""
    command = suggested("train", f"resume={os.path.relpath(run_dir)}", *overrides)
    return f"{command}{word_for(trainer.config)}"


def _follow(trainer: Trainer, run_dir: Path, *, resume: bool) -> RunSummary:
    """Train on a rank that writes nothing; the first rank says what there is to say."""
    package = logging.getLogger("rotograd_cli")
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        if resume:
            trainer.checkpoints.resume()
        with _under_way(trainer, run_dir):
            return RunSummary(metrics=dict(trainer.fit()))
    except interrupts.StopRequested as error:
        interrupts.hand_on(error)
        raise
    finally:
        package.setLevel(level)
