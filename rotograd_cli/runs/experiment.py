"""``rotograd train``: one run, from its configuration to its summary."""

import gc
import logging
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rotograd_cli.config.components import Constructors
from rotograd_cli.config.messages import describe_failure
from rotograd_cli.config.schema import TrainConfig
from rotograd_cli.data.base import MultiTaskDataset
from rotograd_cli.errors import ConfigError, NonFiniteError, run_under_way, suggested
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.runs import description
from rotograd_cli.runs.building import build_run, memory_errors
from rotograd_cli.runs.directory import (
    CHECKPOINTS,
    RunFolder,
    claimed,
    log_file,
    refuse_other_data,
)
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.terminal import remarks
from rotograd_cli.runs.trust import trust_arguments
from rotograd_cli.tracking.base import PictureTracker, RewindingTracker, Tracker
from rotograd_cli.tracking.console import ConsoleTracker, Screen
from rotograd_cli.tracking.jsonl import RECORDS, JsonlTracker, records
from rotograd_cli.tracking.pace import Pace
from rotograd_cli.training import interrupts
from rotograd_cli.training.checkpoint import has_checkpoint
from rotograd_cli.training.evaluation import unlabelled_notes
from rotograd_cli.training.evaluation_view import EvaluationView
from rotograd_cli.training.loop import Trainer
from rotograd_cli.training.options import TrainOptions
from rotograd_cli.training.precision import compilation
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.train_state import TrainState

logger = logging.getLogger(__name__)


SCREEN = Screen()


class RunRecorder:
    """The trackers of a run, as the loop sees them: one recorder."""

    def __init__(self) -> None:
        self.trackers: list[Tracker] = []

    def log(self, record: dict[str, float]) -> None:
        """Hand on one record."""
        for tracker in self.trackers:
            tracker.log(record)

    def show(self, step: int, view: EvaluationView) -> None:
        """Hand on what an evaluation shows beside numbers."""
        for tracker in self.trackers:
            if isinstance(tracker, PictureTracker):
                tracker.show(step, view)

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        """Show progress on the terminal."""
        for tracker in self.trackers:
            if isinstance(tracker, ConsoleTracker):
                tracker.progress(state, num_batches, batch_index)

    def position(self) -> dict[str, int]:
        """Return how far the record file is written."""
        files = [tracker for tracker in self.trackers if isinstance(tracker, JsonlTracker)]
        return {file.path.name: file.position() for file in files}

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Hand on the summary and close."""
        for tracker in self.trackers:
            tracker.finish(summary)


@memory_errors()
def train(
    config: TrainConfig,
    run_dir: Path,
    overrides: Sequence[str] = (),
    *,
    screen: Screen | None = SCREEN,
    resume: bool = False,
    extend: bool = False,
    ranks: Ranks = ONE,
) -> RunSummary:
    """Train one run and write its directory.

    Nothing is written before every component has been built and found to fit.

    Args:
        config: Checked configuration.
        run_dir: Run directory; created if absent.
        overrides: What the user changed, recorded in the summary.
        screen: What the terminal shows; None for nothing below a warning.
        resume: Go on from the newest checkpoint in the directory, if there is one.
        extend: Whether that run is to train longer than its ``config.yaml`` says.
        ranks: The processes that train together; the first one writes, the others call this with
            the same arguments.

    Returns:
        What is recorded of the run; on other ranks, the metrics alone.

    Raises:
        RotogradError: If the input is wrong.
    """
    recorder = RunRecorder()
    is_saved = resume and ranks.broadcast(lambda: has_checkpoint(run_dir / CHECKPOINTS))
    run, dataset = build_run(config, ranks, is_saved=is_saved)
    trainer = _trainer(config, run_dir, recorder, run, dataset)
    if resume:
        fingerprint = trainer.dataset.fingerprint
        ranks.broadcast(lambda: refuse_other_data(run_dir, fingerprint, config.paths.data_dir))
    if not ranks.is_first:
        return _follow(trainer, run_dir, resume=resume, extend=extend)
    label = None if screen is None else screen.label
    with claimed(run_dir) as folder, log_file(run_dir / "train.log", label):
        positions = _resume(trainer, extend=extend) if resume else None
        folder.begin(None if resume else trainer.config)
        folder.summary = _first_summary(trainer, run_dir, overrides, resumed=positions is not None)
        folder.write()  # a run that is killed has said what it trained on
        if extend:  # last: whoever finds the new length does not find the run finished
            folder.write_config(trainer.config)
        with _recorded(folder, trainer, recorder):
            with _under_way(trainer, run_dir):
                add = recorder.trackers.append
                size = (positions or {}).get(RECORDS, 0)  # what follows is cut off
                tracker = JsonlTracker(run_dir / RECORDS, size)
                add(tracker)
                make_logger = Constructors(config).logger
                mirror = make_logger(run_dir=run_dir, config=trainer.config, tags=config.tags)
                _rewind(mirror, tracker, run_dir)
                add(mirror)
                if screen is not None:
                    add(_console(trainer, screen))
                metrics = trainer.fit()
            notes = [*folder.summary.notes, *unlabelled_notes(trainer.dataset.tasks, metrics)]
            folder.note(status="finished", metrics=metrics, notes=notes)
    return folder.summary


def _trainer(
    config: TrainConfig,
    run_dir: Path,
    recorder: RunRecorder,
    run: RunState,
    dataset: MultiTaskDataset,
) -> Trainer:
    return Trainer(
        run,
        dataset,
        config.train,
        recorder,
        checkpoint_dir=run_dir / CHECKPOINTS,
        checkpoint_options=config.checkpoints,
        seed=config.seed,
        config=asdict(config),
        diagnostics=config.diagnostics,
        view=_view(config, dataset),
    )


def _view(config: TrainConfig, dataset: MultiTaskDataset) -> EvaluationView | None:
    """Return what looks on at evaluations, the same on all ranks; None if the logger asks not."""
    num = config.logger.get("images", 0)
    confusion = config.logger.get("confusion", False)
    return EvaluationView(dataset, num, confusion) if num or confusion else None


def _rewind(mirror: Tracker, tracker: JsonlTracker, run_dir: Path) -> None:
    """Tell a mirror what a killed run had recorded after its last checkpoint."""
    step = tracker.dropped_from
    if step is not None and isinstance(mirror, RewindingTracker):
        kept = [each for each in records(run_dir) if (each["step"] or 0) >= step]
        mirror.rewind(int(step), kept)


def _console(trainer: Trainer, screen: Screen) -> ConsoleTracker:
    options = trainer.options
    state = trainer.run.state
    pace = Pace(
        num_steps=options.epochs * trainer.batches.num_steps,
        batch_size=options.batch_size,
        step=state.step,
        seconds=state.train_s,
    )
    return ConsoleTracker(options.epochs, trainer.selection.key, pace, screen)


def _first_summary(
    trainer: Trainer, run_dir: Path, overrides: Sequence[str], *, resumed: bool
) -> RunSummary:
    """Return the summary of a run before its first step, and announce the run."""
    run = trainer.run
    summary = description.begun(trainer, overrides)
    line = (
        f"{summary.method_label} on {summary.data} ({', '.join(summary.tasks)}), "
        f"seed {summary.seed}, {run.device}: {os.path.relpath(run_dir)}"
    )
    if resumed:
        summary = description.resumed(summary, RunSummary.read(run_dir), run.state.step)
        line = f"{line}, on from step {run.state.step}"
    for each in (line, *run.origin, *run.remarks, *remarks(trainer.dataset.notes)):
        logger.info(each)
    return summary


@contextmanager
def _recorded(folder: RunFolder, trainer: Trainer, recorder: RunRecorder) -> Iterator[None]:
    """Write what became of a run, however it ends."""
    try:
        yield
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        is_stop = isinstance(error, interrupts.StopRequested)
        folder.note(status=status, error=str(error) if is_stop else describe_failure(error))
        logger.debug("%s", traceback.format_exc())
        if isinstance(error, interrupts.StopRequested):
            command = _command(trainer, folder.path)
            step = trainer.run.state.step
            logger.info("Stopped after step %d; continue with: %s", step, command)
            error.is_reported = any(isinstance(t, ConsoleTracker) for t in recorder.trackers)
            interrupts.hand_on(error)
        raise
    finally:
        folder.note(**description.progress(trainer.run))
        with run_under_way():
            folder.write()
            recorder.finish(folder.summary.content())


@contextmanager
def _under_way(trainer: Trainer, run_dir: Path) -> Iterator[None]:
    """Inside, a run trains: an error is the run's failure, an interrupt waits for the step.

    A step that is not finite ends with the command that shows where it began.
    """
    gc.enable()  # off while a command imports
    is_compiled = trainer.config["compile"]
    with run_under_way(), interrupts.deferring(), memory_errors(), compilation(is_compiled):
        try:
            yield
        except NonFiniteError as error:
            command = _command(trainer, run_dir, "debug=nonfinite")
            raise NonFiniteError(f"{error} {command} shows where it began.") from error


def _command(trainer: Trainer, run_dir: Path, *overrides: str) -> str:
    """Return a command that resumes the run."""
    trust = trust_arguments(trainer.config, run_dir)
    return suggested("train", f"resume={os.path.relpath(run_dir)}", *overrides, *trust)


def _resume(trainer: Trainer, *, extend: bool) -> dict[str, int] | None:
    """Go back to the newest checkpoint.

    Raises:
        ConfigError: If the run is to train longer and cannot.
    """
    positions = trainer.checkpoints.resume()
    if extend:
        _check_extended(trainer.run.state, trainer.options)
    return positions


def _check_extended(state: TrainState, options: TrainOptions) -> None:
    """Refuse to train longer where nothing is left to train, or to report.

    Raises:
        ConfigError: If the run is over, or has passed one of the epochs whose mean it reports.
    """
    num = options.average_last_epochs
    if num is not None and options.is_averaged(state.epoch):
        raise ConfigError(
            f"`train.epochs` must be at least {state.epoch + num} for the mean of the last {num} "
            f"epochs (train.average_last_epochs) of a run that is made longer after epoch "
            f"{state.epoch}, got {options.epochs}; raise it."
        )
    if state.is_over(options) and not state.evaluation_due:
        limit = "train.patience" if state.epoch < options.epochs else "train.epochs"
        raise ConfigError(
            f"`resume` must leave something to train, but the run ended after epoch {state.epoch}, "
            f"{state.num_since_best} evaluations after its best (train.epochs={options.epochs}, "
            f"train.patience={options.patience}); raise {limit}."
        )


def _follow(trainer: Trainer, run_dir: Path, *, resume: bool, extend: bool) -> RunSummary:
    """Train on a rank that writes nothing; the first rank says what there is to say."""
    package = logging.getLogger("rotograd_cli")
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        if resume:
            _resume(trainer, extend=extend)
        with _under_way(trainer, run_dir):
            return RunSummary(metrics=dict(trainer.fit()))
    except interrupts.StopRequested as error:
        interrupts.hand_on(error)
        raise
    finally:
        package.setLevel(level)
