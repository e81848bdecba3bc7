"""The composition root: the only place that builds components and joins them."""

import logging
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rotograd_cli.errors import run_under_way, suggested
from rotograd_cli.methods.base import MultiTaskMethod
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.runs import description
from rotograd_cli.runs.building import build, building, memory_errors
from rotograd_cli.runs.components import Constructors
from rotograd_cli.runs.config import TrainConfig
from rotograd_cli.runs.directory import (
    CHECKPOINTS,
    RunFolder,
    claimed,
    log_file,
    refuse_other_data,
)
from rotograd_cli.runs.messages import describe_failure
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.trust import word_for
from rotograd_cli.tracking.base import Tracker
from rotograd_cli.tracking.console import ConsoleTracker
from rotograd_cli.tracking.jsonl import JsonlTracker
from rotograd_cli.training import interrupts
from rotograd_cli.training.compiling import compilation
from rotograd_cli.training.dry_pass import dry_pass
from rotograd_cli.training.loop import (
    CheckpointOptions,
    LoopOptions,
    OptimizerGroup,
    Recorder,
    Trainer,
)
from rotograd_cli.training.nonfinite import fit_or_dump
from rotograd_cli.training.state import TrainState

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
    recorder = _Recorder()
    trainer = make_trainer(config, recorder, run_dir / CHECKPOINTS, constructors, ranks)
    if resume:
        fingerprint = trainer.dataset.fingerprint
        ranks.same(lambda: refuse_other_data(run_dir, fingerprint, config.paths.data_dir))
    if not ranks.is_first:
        return _follow(trainer, config, resume=resume)
    with claimed(run_dir) as folder, log_file(run_dir / "train.log", quiet=quiet):
        records = trainer.resume() if resume else None
        folder.begin(None if resume else trainer.config)
        folder.summary = _first_summary(trainer, config, overrides)
        if records is not None:
            before = RunSummary.read(run_dir)
            folder.summary = description.resumed(folder.summary, before, trainer.state.step)
        folder.write()  # a run that is killed has said what it trained on
        _announce(folder, trainer, resumed=records is not None)
        with _recorded(folder, trainer, recorder, ranks, config):
            with interrupts.deferring(), run_under_way(), memory_errors():
                recorder.keep_file(run_dir / "metrics.jsonl", records or {})
                tags = config.tags
                recorder.add(constructors.logger(run_dir=run_dir, config=trainer.config, tags=tags))
                if not quiet:
                    num_epochs = config.train.epochs
                    select = trainer.selection.key
                    recorder.add(ConsoleTracker(num_epochs=num_epochs, select=select))
                with compilation(config.compile):
                    metrics = fit_or_dump(trainer)
            folder.note(status="finished", metrics=metrics)
    return folder.summary


def _first_summary(trainer: Trainer, config: TrainConfig, overrides: Sequence[str]) -> RunSummary:
    return description.begun(
        config, trainer.dataset, trainer.model, trainer.selection, trainer.device, overrides
    )


def _announce(folder: RunFolder, trainer: Trainer, *, resumed: bool) -> None:
    summary = folder.summary
    logger.info(
        "%s on %s (%s), seed %d, %s: %s%s",
        summary.method,
        summary.data,
        ", ".join(summary.tasks),
        summary.seed,
        trainer.device,
        os.path.relpath(folder.path),
        f", on from step {trainer.state.step}" if resumed else "",
    )


@contextmanager
def _recorded(
    folder: RunFolder, trainer: Trainer, recorder: "_Recorder", ranks: Ranks, config: TrainConfig
) -> Iterator[None]:
    """Write what became of a run, however it ends."""
    try:
        yield
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        folder.note(status=status, error=describe_failure(error))
        logger.debug("%s", traceback.format_exc())
        if isinstance(error, interrupts.StopRequested):
            logger.info(
                "Stopped after step %d; continue with: %s%s",
                trainer.state.step,
                suggested("train", f"resume={os.path.relpath(folder.path)}"),
                word_for(config),
            )
            interrupts.hand_on(error)
        raise
    finally:
        folder.summary = description.progressed(
            folder.summary, trainer.state, trainer.wall_s, ranks
        )
        with run_under_way():
            folder.write()
            recorder.finish(folder.summary.content())


def _follow(trainer: Trainer, config: TrainConfig, *, resume: bool) -> RunSummary:
    """Train on a rank that writes nothing."""
    package = logging.getLogger("rotograd_cli")
    level = package.level
    package.setLevel(logging.ERROR)  # the first rank says the rest
    try:
        if resume:
            trainer.resume()
        with (
            compilation(config.compile),
            interrupts.deferring(),
            run_under_way(),
            memory_errors(),
        ):
            return RunSummary(metrics=dict(fit_or_dump(trainer)))
    except interrupts.StopRequested as error:
        interrupts.hand_on(error)
        raise
    finally:
        package.setLevel(level)


def make_trainer(
    config: TrainConfig,
    recorder: Recorder,
    checkpoint_dir: Path,
    constructors: Constructors | None = None,
    ranks: Ranks = ONE,
) -> Trainer:
    """The loop of a run over everything that it needs; nothing is written.

    Args:
        config: Checked configuration.
        recorder: Where records go.
        checkpoint_dir: Folder of the checkpoints, which need not exist yet.
        constructors: The configuration's checked constructors; made here if None.
        ranks: The processes that train together.

    Returns:
        The loop, before its first step.

    Raises:
        RotogradError: If a component is refused, or two do not fit.
    """
    constructors = constructors or Constructors(config)
    experiment = build(config, constructors)
    options = LoopOptions(**asdict(config.train))

    def make_groups(model: MultiTaskMethod) -> list[OptimizerGroup]:
        return _optimizer_groups(model, constructors)

    ranks.same(lambda: dry_pass(experiment.model, experiment.dataset, make_groups, options))
    ranks.attach(experiment.model, experiment.dataset.input_shape)
    experiment.model.join(ranks)
    return Trainer(
        experiment.model,
        experiment.dataset,
        make_groups(experiment.model),
        options,
        recorder,
        checkpoint_dir=checkpoint_dir,
        seed=config.seed,
        device=experiment.device,
        config=asdict(config),
        checkpoints=CheckpointOptions(**asdict(config.checkpoints)),
    )


def _optimizer_groups(model: MultiTaskMethod, constructors: Constructors) -> list[OptimizerGroup]:
    parameters = {
        "model": list(model.model_parameters()),
        "method": list(model.mtl_parameters()),
    }
    groups = []
    for name, params in parameters.items():
        make_scheduler, interval = constructors.schedulers[name]
        if params:  # vanilla has no parameters of its own
            with building(f"{name}_optimizer"):
                optimizer = constructors.optimizers[name](params)
            with building(f"{name}_scheduler.scheduler"):
                scheduler = make_scheduler(optimizer)
            groups.append(OptimizerGroup(name, optimizer, scheduler, interval))
    return groups


class _Recorder:
    """Hands the loop's records to all trackers."""

    def __init__(self) -> None:
        self.trackers: list[Tracker] = []
        self.file: JsonlTracker | None = None

    def add(self, tracker: Tracker) -> None:
        self.trackers.append(tracker)

    def keep_file(self, path: Path, positions: Mapping[str, int]) -> None:
        """The record file, whose length checkpoints remember."""
        self.file = JsonlTracker(path, positions.get(path.name, 0))
        self.add(self.file)

    def position(self) -> dict[str, int]:
        return {} if self.file is None else {"metrics.jsonl": self.file.position()}

    def log(self, record: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(record)

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        for tracker in self.trackers:
            if isinstance(tracker, ConsoleTracker):
                tracker.progress(state, num_batches, batch_index)

    def poll(self) -> None:
        interrupts.check()

    def finish(self, summary: Mapping[str, Any]) -> None:
        for tracker in self.trackers:
            tracker.finish(summary)
