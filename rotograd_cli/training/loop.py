"""The training loop: epochs of steps, an evaluation after each, the selected epoch tested once.

With ``average_last_epochs`` the last epochs are tested instead, and none is selected.
"""

import logging
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Protocol

from rotograd_cli.data.base import MultiTaskDataset, Split
from rotograd_cli.errors import NonFiniteError
from rotograd_cli.ranks.base import Ranks
from rotograd_cli.tasks.metrics import SMALLEST_LOSS
from rotograd_cli.training import interrupts
from rotograd_cli.training.batches import EpochBatches
from rotograd_cli.training.checkpoint_folder import CheckpointFolder
from rotograd_cli.training.diagnostics import measurement_for
from rotograd_cli.training.evaluation import Evaluator, by_task
from rotograd_cli.training.evaluation_view import EvaluationView
from rotograd_cli.training.nonfinite import explain
from rotograd_cli.training.options import CheckpointOptions, TrainOptions
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.selection import relative_loss, select_by
from rotograd_cli.training.stepper import Stepper
from rotograd_cli.training.train_state import TrainState

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Where the loop sends its records."""

    def log(self, record: dict[str, float]) -> None:
        """Take one record: ``step``, ``epoch``, ``seconds``, values by ``split/task/metric``."""

    def show(self, step: int, view: EvaluationView) -> None:
        """Take what an evaluation shows beside numbers, after its record."""

    def position(self) -> dict[str, int]:
        """Return how far the record files are written: bytes by name, on disk by now."""

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        """Show progress after a step, without values: nothing here may wait for the device."""


def stop_if_requested(ranks: Ranks) -> None:
    """Raise where the run is to stop: on all ranks after the same step.

    Args:
        ranks: The processes; a step tells each of them of the signals of all.
    """
    if ranks.size == 1:
        interrupts.check()
    if ranks.signal_of_all:
        raise interrupts.StopRequested(ranks.signal_of_all)
    ranks.signal = interrupts.requested()


@dataclass
class Trainer:
    """Trains a model on a data set and tests the selected epoch.

    Args:
        run: The model with its method and optimisers, on the data set's device.
        dataset: The data.
        options: The loop's options.
        recorder: Where records go.
        checkpoint_dir: Folder of ``last.pt`` and ``best.pt``; exists when :meth:`fit` is called.
        checkpoint_options: When checkpoints are written.
        seed: Seed of the order of examples.
        config: Resolved configuration, stored in checkpoints.
        diagnostics: What is measured of the gradients of the steps that are recorded.
        view: Sees the evaluations of the validation split; None for none.

    Raises:
        ConfigError: If no batch fits the training split, or the selection key is not a metric or
            its mode takes the worst epoch.
    """

    run: RunState
    dataset: MultiTaskDataset
    options: TrainOptions
    recorder: Recorder
    _: KW_ONLY
    checkpoint_dir: Path
    checkpoint_options: CheckpointOptions
    seed: int
    config: dict[str, Any]
    diagnostics: str = "off"
    view: EvaluationView | None = None

    def __post_init__(self) -> None:
        run = self.run
        tasks = self.dataset.tasks
        self.selection = select_by(self.options, tasks)
        self.solved: set[str] = set()
        self.batches = EpochBatches(self.dataset, self.options, self.seed, run.device, run.ranks)
        self.stepper = Stepper(run, tasks, self.options)
        self.evaluator = Evaluator(run.evaluated_model, self.dataset, self.options)
        self.checkpoints = CheckpointFolder(
            self.checkpoint_dir,
            run,
            self.checkpoint_options,
            lambda: {"records": self.recorder.position(), "config": self.config},
        )

    def fit(self) -> dict[str, float]:
        """Train all epochs, or until the best is long ago, then test the selected one.

        Where the last epochs are averaged, they have been tested, and none is selected.

        Returns:
            Metrics of the selected epoch: evaluation splits as recorded then, and the test split;
            or the mean of the last epochs, ``average_last_epochs`` of them.

        Raises:
            NonFiniteError: If a task loss becomes infinite or NaN; the last checkpoint is kept.
            SelectionError: If no epoch can be selected; nothing is tested.
        """
        state = self.run.state
        self.checkpoints.save_start()
        try:
            if state.step == 0 and self.selection.is_relative:
                metrics = self.evaluator.metrics(self.selection.split)
                state.initial_losses = self.selection.losses(metrics)
                self.selection.check_initial(state.initial_losses)
            while state.evaluation_due or not state.is_over(self.options):
                if not state.evaluation_due:
                    self.train_epoch()
                self._end_epoch()
        except interrupts.StopRequested:  # raised between two steps or two batches of an evaluation
            self.checkpoints.save("last.pt")
            raise
        finally:
            self.checkpoints.wait()
        if state.epoch < self.options.epochs:
            logger.info(
                "Stopped early after epoch %d of %d: no better %s in %d evaluations.",
                *(state.epoch, self.options.epochs, self.selection.key, state.num_since_best),
            )
        logger.info(state.describe_selected(self.selection))
        self.checkpoints.load_best()
        tested = {} if state.averaged else self._test()
        self.checkpoints.finish()
        return {**state.best_metrics, **tested}

    def _test(self) -> dict[str, float]:
        metrics = self.evaluator.metrics("test")
        self._log(self.run.state.best_epoch, metrics)
        return metrics

    def train_epoch(self) -> None:
        """Train on what is left of the epoch under way."""
        run = self.run
        state = run.state
        run.begin_epoch()
        for micro_batches in self.batches.steps(state.epoch, state.batch):
            stop_if_requested(run.ranks)
            is_recorded = self._records_next_step()
            measurement = measurement_for(self.diagnostics) if is_recorded else None
            try:
                # forward, losses, method, two optimisers
                self.stepper.take(micro_batches, measurement)
            except NonFiniteError as error:
                reason = explain(error, run, self.batches, micro_batches)
                raise NonFiniteError(f"{error}{reason}") from error
            run.end_step()
            if is_recorded:
                self.recorder.log(run.record(self.dataset.tasks, measurement))
            self.recorder.progress(state, self.batches.num_steps, state.batch - 1)
            run.count_time(self.batches.take_waited_s())
            self.checkpoints.save_if_due()
        run.end_epoch()

    def _records_next_step(self) -> bool:
        state = self.run.state
        is_last = state.batch + 1 == self.batches.num_steps
        return is_last or (state.step + 1) % self.options.log_every_steps == 0

    def _end_epoch(self) -> None:
        """Evaluate the epoch just finished, unless its turn is later, and save."""
        state = self.run.state
        self.run.ranks.check_equal(self.run.model)
        is_saved = state.epoch % self.checkpoint_options.every_epochs == 0
        if self.options.is_evaluated(state.epoch):
            metrics = self._evaluate()
            self.run.model.observe_evaluation(by_task(self.dataset.tasks, metrics, "val"))
            state.evaluation_due = False
            self.selection.check(metrics)
            self._warn_of_solved_tasks(metrics)
            self.run.end_evaluation(metrics[self.selection.key])
            if self._is_reported(metrics):
                self.checkpoints.save("best.pt")  # first: last.pt never names a best without it
                is_saved = True  # and a best that it does not name is lost when the run resumes
        state.evaluation_due = False
        if is_saved or state.is_over(self.options):
            self.checkpoints.save_epoch()

    def _warn_of_solved_tasks(self, metrics: dict[str, float]) -> None:
        """Say once of each task that selection does not see its loss become smaller."""
        key = self.selection.key
        split = self.selection.split
        for name, loss in self.selection.solved_tasks(metrics).items():
            if name not in self.solved:
                logger.warning(
                    "The loss of task %r is %.2g on %s, and counts as %.2g in %s, which compares "
                    "epochs; to compare them otherwise, train with train.select=%s/loss, or with a "
                    "metric of one task, train.select=%s/TASK/METRIC.",
                    *(name, loss, split, SMALLEST_LOSS, key, split, split),
                )
            self.solved.add(name)

    def _is_reported(self, metrics: dict[str, float]) -> bool:
        """Take the metrics of the epoch just finished; return whether it counts in the end."""
        state = self.run.state
        if self.options.average_last_epochs is None:
            return state.update_best(metrics, self.selection)
        if not self.options.is_averaged(state.epoch):
            return False
        state.update_mean(metrics, self.selection)
        return True

    def _evaluate(self) -> dict[str, float]:
        state = self.run.state
        metrics: dict[str, float] = {}
        tested: tuple[Split, ...] = ("test",) if self.options.is_averaged(state.epoch) else ()
        for split in (*self.options.evaluated_splits, *tested):
            metrics |= self.evaluator.metrics(split, self.view if split == "val" else None)
        if self.selection.is_relative:
            losses = self.selection.losses(metrics)
            metrics[self.selection.key] = relative_loss(losses, state.initial_losses)
        self._log(state.epoch, metrics)
        if self.view is not None:
            self.recorder.show(state.step, self.view)
        return metrics

    def _log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Record an evaluation of an epoch."""
        run = self.run
        self.recorder.log({"step": run.state.step, "epoch": epoch, **run.clock(), **metrics})
