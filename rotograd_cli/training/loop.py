"""The training loop: epochs of steps, an evaluation after each, the selected epoch tested once."""

import logging
import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, in_parts
from rotograd_cli.errors import CheckpointError, ConfigError, NonFiniteError, SelectionError
from rotograd_cli.methods.base import MultiTaskMethod
from rotograd_cli.ranks.base import ONE
from rotograd_cli.training.batch_checks import find_fault
from rotograd_cli.training.checkpoint import (
    drop_previous,
    keep_epoch,
    load_checkpoint,
    load_newest,
    load_weights,
    previous_of,
    restore_best,
    save_checkpoint,
)
from rotograd_cli.training.coverage import complete_batches, evaluation_parts
from rotograd_cli.training.gathering import TOGETHER
from rotograd_cli.training.interrupts import StopRequested, requested
from rotograd_cli.training.precision import LossScale
from rotograd_cli.training.seeding import epoch_draws, epoch_order, rng_state, set_rng_state
from rotograd_cli.training.selection import relative_loss, select_by
from rotograd_cli.training.state import TrainState
from rotograd_cli.training.step import evaluate, train_step

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Where the loop sends its records."""

    def log(self, record: dict[str, float]) -> None:
        """Takes one record: ``step``, ``epoch`` and values by ``split/task/metric``."""

    def poll(self) -> None:
        """Called between batches, where stopping is safe; raises if the run is to stop."""

    def position(self) -> dict[str, int]:
        """How far the record files are written: bytes by name, on disk before this returns."""

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        """Told after every step, without values: nothing here may wait for the device."""


@dataclass(frozen=True)
class LoopOptions:
    """Plain values of the loop; ``conf/training.yaml`` says what each key means."""

    epochs: int
    batch_size: int
    accumulate_steps: int
    grad_clip_norm: float | None
    eval_batch_size: int
    log_every_steps: int
    shuffle: bool
    augment: bool
    limit_batches: int | None
    limit_eval_batches: int | None
    eval_every_epochs: int
    evaluate_train: bool
    select: str
    select_mode: str
    on_nonfinite: str = "stop"
    max_skipped_steps: int = 0


@dataclass(frozen=True)
class CheckpointOptions:
    """When checkpoints are written besides the end of an epoch, and which are kept."""

    every_minutes: float = math.inf
    keep_epochs: int = 0


_DEFAULT = CheckpointOptions()
REMEDY = "lower model_optimizer.lr or method_optimizer.lr, or set train.grad_clip_norm"


@dataclass(frozen=True)
class OptimizerGroup:
    """An optimiser with its schedule."""

    name: str
    """``model`` or ``method``."""
    optimizer: Optimizer
    scheduler: LRScheduler
    interval: str
    """When the schedule advances: ``step`` or ``epoch``."""


class Trainer:
    """Trains a model on a data set and remembers the selected epoch.

    Args:
        model: The network with its method, on the device.
        dataset: The data, on the same device.
        groups: Optimisers with their schedules.
        options: The loop's options.
        recorder: Where records go.
        checkpoint_dir: Folder of ``last.pt`` and ``best.pt``; exists when :meth:`fit` is called.
        seed: Seed of the order of examples.
        device: Where the model is.
        config: Resolved configuration, stored in checkpoints.
        checkpoints: When they are written.

    Raises:
        ConfigError: If no batch fits the training split, or the selection key is not a metric or
            its mode takes the worst epoch.
    """

    def __init__(
        self,
        model: MultiTaskMethod,
        dataset: MultiTaskDataset,
        groups: Sequence[OptimizerGroup],
        options: LoopOptions,
        recorder: Recorder,
        *,
        checkpoint_dir: Path,
        seed: int,
        device: torch.device,
        config: dict[str, Any],
        checkpoints: CheckpointOptions = _DEFAULT,
    ) -> None:
        self.checkpoints = checkpoints
        self.model, self.dataset, self.groups = model, dataset, groups
        self.ranks = model.ranks
        self.options, self.recorder = options, recorder
        self.checkpoint_dir, self.seed, self.device, self.config = (
            checkpoint_dir,
            seed,
            device,
            config,
        )
        self.state = TrainState()
        self.window = LossWindow(len(dataset.tasks), device)
        self.faultless: set[Split] = set()
        self.failed_batches: list[Batch] = []  # micro-batches of the step that ended the run
        self.loss_scale = LossScale() if model.autocast_dtype == torch.float16 else None
        self.looks_at_every_step = (
            options.on_nonfinite == "skip" or device.type == "cpu" or self.loss_scale is not None
        )
        self._began = self._saved_at = time.monotonic()
        self.selection = select_by(options.select, options.select_mode, dataset.tasks, self.splits)
        self._check()

    def fit(self) -> dict[str, float]:
        """Trains all epochs, then tests the selected one.

        Returns:
            Metrics of the selected epoch: evaluation splits as recorded then, and the test split.

        Raises:
            NonFiniteError: If a task loss becomes infinite or NaN; the last checkpoint is kept.
            SelectionError: If no epoch can be selected; nothing is tested.
        """
        self._save_start()
        try:
            self._measure_untrained()
            while self.state.epoch < self.options.epochs or self.state.evaluation_due:
                if not self.state.evaluation_due:
                    self.train_epoch()
                self._end_epoch()
        except StopRequested:  # raised between two steps or two batches of an evaluation
            self._save("last.pt")
            raise
        self._tell_selected()
        metrics = self.test()
        if self.ranks.is_first:
            drop_previous(self.checkpoint_dir)
        return metrics

    def _measure_untrained(self) -> None:
        """Losses that ``relative_loss`` compares with, before the first step of a run."""
        split = self.selection.split
        if self.state.step == 0 and self.selection.key == f"{split}/relative_loss":
            metrics = self.metrics(split)
            self.state.initial_losses = self.selection.losses(metrics)
            self.selection.check_initial(self.state.initial_losses)

    def _tell_selected(self) -> None:
        """Says what was compared; refuses to test what was not selected."""
        key = self.selection.key
        state = self.state
        if not math.isfinite(state.best_value):  # an earlier version chose epoch 1 by NaN
            raise SelectionError(
                f"No epoch can be selected: {key} was infinite or NaN in every evaluation "
                f"(metrics.jsonl has them by task); choose another train.select, or {REMEDY}."
            )
        compared = f"{state.num_evaluations} evaluations"
        if state.num_candidates < state.num_evaluations:
            compared = f"the {state.num_candidates} finite values of {compared}"
        logger.info(
            f"Selected epoch {state.best_epoch}: {key} {state.best_value:.4f}, the best of "
            f"{compared}."
        )

    def _save_start(self) -> None:
        """What comes before the first ``last.pt``: a failure in the first epoch goes back to it."""
        last = self.checkpoint_dir / "last.pt"
        if self.state.step == 0 and not (last.exists() or previous_of(last).exists()):
            self._save(previous_of(last).name)

    def train_epoch(self) -> None:
        """One pass over the training split, or what is left of it; partial batches left out."""
        self.model.train()
        batches, mark = self.num_batches, time.monotonic()
        for index, micro_batches in enumerate(self._micro_batches(), start=self.state.batch):
            self._poll()
            self._step(micro_batches)
            self.state.step += 1
            self.state.batch = index + 1
            self._advance("step")
            if self.state.step % self.options.log_every_steps == 0 or index == batches - 1:
                self._record(self.window)
            self.recorder.progress(self.state, batches, index)
            before, mark = mark, time.monotonic()
            self.state.train_s += mark - before
            if mark - self._saved_at > 60 * self.checkpoints.every_minutes:
                self._save("last.pt")
        self.model.end_epoch()
        self._advance("epoch")
        self.state.epoch += 1
        self.state.batch, self.state.evaluation_due = 0, True

    def _poll(self) -> None:
        """Raises where the run is to stop: on all ranks after the same step."""
        if self.ranks.size == 1:
            self.recorder.poll()
            return
        if self.ranks.signal_of_all:
            raise StopRequested(self.ranks.signal_of_all)
        self.ranks.signal = requested()

    def _step(self, micro_batches: list[Batch]) -> None:
        """One optimiser step; a skipped one leaves everything but the method's counters alone.

        A look at losses and gradients is free on a CPU. On an accelerator it waits, so that only
        ``skip`` takes it: otherwise the losses are looked at when they are recorded.
        """
        skip = self.options.on_nonfinite == "skip"
        try:
            losses = self.take_step(micro_batches)
        except NonFiniteError as error:
            step = self.state.step + 1
            if not skip or self.state.skipped_steps == self.options.max_skipped_steps:
                already = f" after {self.state.skipped_steps} skipped steps" if skip else ""
                self.failed_batches = micro_batches
                message = f"{error} in step {step}{already}{self._cause(error, micro_batches)}"
                raise NonFiniteError(message, step=step) from error
            self.state.skipped_steps += 1
            logger.warning("%s in step %d, which is skipped.", error, step)
        else:
            self.window.add(losses)

    def _cause(self, error: NonFiniteError, micro_batches: Sequence[Batch]) -> str:
        """The end of the line on a step that is not finite: a fault of its data, or a remedy."""
        alone = self.ranks.size == 1
        batches = micro_batches if alone else next(self._micro_batches(whole=True))
        suspects = [name for name, loss in error.losses.items() if not math.isfinite(loss)]
        fault = find_fault(batches, self.dataset.tasks, self.dataset.name, "train", suspects)
        return f"; {REMEDY}." if fault is None else f". {fault}"

    def take_step(self, micro_batches: Sequence[Batch]) -> Tensor:
        """:func:`train_step` with the run's options; nothing is counted or recorded."""

        def step(loss_scale: float | None = None) -> Tensor:
            return train_step(
                self.model,
                self.dataset.tasks,
                micro_batches,
                [group.optimizer for group in self.groups],
                grad_clip_norm=self.options.grad_clip_norm,
                check_finite=self.looks_at_every_step,
                loss_scale=loss_scale,
            )

        return step() if self.loss_scale is None else self.loss_scale.take(self.model, step)

    def _end_epoch(self) -> None:
        """Evaluates the epoch just finished, unless it is none of those, and saves."""
        self.ranks.check_same(self.model)
        options, state = self.options, self.state
        last = state.epoch == options.epochs
        if not (state.epoch % options.eval_every_epochs and not last):
            metrics = self.evaluate_epoch()
            state.evaluation_due = False
            self.selection.check(metrics)
            if state.update_best(metrics, self.selection):
                self._save("best.pt")  # first: last.pt never names a best epoch without best.pt
        state.evaluation_due = False
        self._save("last.pt")
        if self.checkpoints.keep_epochs and self.ranks.is_first:
            keep_epoch(self.checkpoint_dir, state.epoch, self.checkpoints.keep_epochs)

    def resume(self) -> dict[str, int] | None:
        """Goes back to the newest checkpoint, as if the run had never been stopped.

        Returns:
            How far the record files were written then; None if there is no checkpoint, so that the
            run begins anew.

        Raises:
            CheckpointError: If no checkpoint can be read, or it is another run's.
        """
        content = self.ranks.same_content(lambda: load_newest(self.checkpoint_dir, self._read_to))
        if content is None:
            return None
        self.restore(content, self.checkpoint_dir / "last.pt")
        if self.ranks.is_first:
            restore_best(self.checkpoint_dir, self.state.best_epoch)
        records: dict[str, int] = content["records"]
        return records

    def restore(self, content: dict[str, Any], path: Path) -> None:
        """Goes back to the moment in which :meth:`content` was taken.

        Args:
            content: What it returned, as read from a file.
            path: The file, for the message.

        Raises:
            CheckpointError: If it is another run's.
        """
        try:
            self._load(content, path)
        except (CheckpointError, torch.OutOfMemoryError):
            raise
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
        ) as error:
            raise CheckpointError(
                f"{path} is no checkpoint of this run ({type(error).__name__}: {error}); resume "
                "with the version and the configuration that it was trained with."
            ) from error

    def _load(self, content: dict[str, Any], path: Path) -> None:
        self.state.load_state_dict(content["state"])
        load_weights(self.model, content["model"], path)
        for group in self.groups:
            group.optimizer.load_state_dict(content["optimizers"][group.name])
            group.scheduler.load_state_dict(content["schedulers"][group.name])
        if any(type(size) is not int for size in content["records"].values()):
            raise TypeError("a size that is none")
        self.window.sums.copy_(content["window"])
        if self.loss_scale is not None:
            self.loss_scale.load_state_dict(content["loss_scale"])
        set_rng_state(content["rng"])
        if self.ranks.size > 1 and self.device.type == "cuda":  # the first rank's device was 0
            torch.cuda.set_rng_state(content["rng"]["cuda"][0].cpu(), self.device)

    @property
    def wall_s(self) -> float:
        """Wall time of the run, of earlier processes too, in seconds."""
        return self.state.wall_s + time.monotonic() - self._began

    @property
    def splits(self) -> list[Split]:
        """Splits that are evaluated after every epoch."""
        return ["train", "val"] if self.options.evaluate_train else ["val"]

    def evaluate_epoch(self) -> dict[str, float]:
        """Metrics of the validation split (and the training split where asked), recorded."""
        metrics = {
            key: value for split in self.splits for key, value in self.metrics(split).items()
        }
        if self.state.initial_losses:
            losses = self.selection.losses(metrics)
            metrics[self.selection.key] = relative_loss(losses, self.state.initial_losses)
        self.recorder.log({"step": self.state.step, "epoch": self.state.epoch, **metrics})
        return metrics

    def test(self) -> dict[str, float]:
        """Metrics of the selected epoch, the test split measured now and recorded."""
        path = self.checkpoint_dir / "best.pt"
        best = self.ranks.same_content(lambda: load_checkpoint(path, self._read_to))
        if best["state"]["best_epoch"] != self.state.best_epoch:
            raise CheckpointError(
                f"{path} must be of epoch {self.state.best_epoch}, which was selected, got one of "
                f"epoch {best['state']['best_epoch']}; train the run again."
            )
        load_weights(self.model, best["model"], path)
        metrics = self.metrics("test")
        self.recorder.log({"step": self.state.step, "epoch": self.state.best_epoch, **metrics})
        return {**self.state.best_metrics, **metrics}

    def metrics(self, split: Split) -> dict[str, float]:
        """Metrics of a split at the current weights."""
        parts = evaluation_parts(self.dataset, split, self.options)
        own = list(self.ranks.own(parts, TOGETHER))
        batches = complete_batches(self.dataset, split, [part for _, part in own])
        metrics = evaluate(
            self.model,
            self.dataset.tasks,
            self._polled(batches),
            split,
            positions=[position for position, _ in own],
            num_batches=len(parts),
        )
        names = [task.name for task in self.dataset.tasks]
        suspects = [n for n in names if not math.isfinite(metrics[f"{split}/{n}/loss"])]
        if suspects:
            self._blame_data(split, parts, suspects)
        return metrics

    def _blame_data(self, split: Split, parts: Sequence[Tensor], suspects: Collection[str]) -> None:
        """Refuses a split whose values make losses NaN or infinite; it is read once."""
        if split in self.faultless:
            return
        batches = self.dataset.batches(split, parts)
        fault = find_fault(batches, self.dataset.tasks, self.dataset.name, split, suspects)
        if fault is not None:
            raise ConfigError(fault)
        self.faultless.add(split)

    def _polled(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.ranks.size == 1:  # many ranks stop between two steps alone
                self.recorder.poll()
            yield batch

    @property
    def _read_to(self) -> torch.device:
        """Where checkpoints are read to: the host where they are sent on."""
        return self.device if self.ranks.size == 1 else torch.device("cpu")

    @property
    def num_batches(self) -> int:
        """Optimiser steps per epoch."""
        num = self.dataset.num_examples("train") // self.options.batch_size
        return num if self.options.limit_batches is None else min(num, self.options.limit_batches)

    def _check(self) -> None:
        num = self.dataset.num_examples("train")
        if self.options.batch_size > num:
            raise ConfigError(
                f"`train.batch_size` must be at most the {num} training examples, got "
                f"{self.options.batch_size}."
            )
        per_pass = self.options.batch_size // self.options.accumulate_steps
        if per_pass < self.ranks.size:
            raise ConfigError(
                f"`train.batch_size` must give each of the {self.ranks.size} ranks an example, got "
                f"{per_pass} per backward pass; raise it or train with fewer processes."
            )

    def _micro_batches(self, *, whole: bool = False) -> Iterator[list[Batch]]:
        """Those of every step that is left of the epoch; with ``whole``, those of all ranks."""
        num = self.dataset.num_examples("train")
        if self.options.shuffle:
            order = epoch_order(num, seed=self.seed, epoch=self.state.epoch)
        else:
            order = torch.arange(num)
        order = order[: self.num_batches * self.options.batch_size]
        num_draws = self.dataset.num_draws if self.options.augment else 0
        draws = epoch_draws(len(order), num_draws, seed=self.seed, epoch=self.state.epoch)
        done = self.state.batch * self.options.batch_size
        order, draws = order[done:], draws[done:].to(self.device)
        if len(order) == 0:  # saved after the epoch's last step
            return
        size = self.options.batch_size // self.options.accumulate_steps
        own = ONE.part if whole else self.ranks.part
        batches = self.dataset.batches("train", [own(part) for part in in_parts(order, size)])
        micro_batches: list[Batch] = []
        for batch, rows in zip(self._timed(batches), in_parts(draws, size), strict=True):
            numbers = own(rows)
            augmented = self.dataset.augment(batch, numbers) if num_draws else batch
            micro_batches.append(augmented)
            if len(micro_batches) == self.options.accumulate_steps:
                yield micro_batches
                micro_batches = []

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time spent on waiting for them is remembered."""
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self.state.data_s += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def _advance(self, interval: str) -> None:
        for group in self.groups:
            if group.interval == interval:
                group.scheduler.step()

    def _record(self, window: "LossWindow") -> None:
        """Means since the last record. The only place of the loop that waits for the device."""
        self.model.refresh()
        names = [task.name for task in self.dataset.tasks]
        means = zip(names, window.take(), strict=True)
        losses = {name: mean for name, mean in means if mean is not None}
        for name, loss in losses.items():
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"The loss of task {name!r} became {loss} before step {self.state.step}; "
                    f"{REMEDY}."
                )
        record: dict[str, float] = {"step": self.state.step, "epoch": self.state.epoch + 1}
        record |= {f"train/{name}/loss": loss for name, loss in losses.items()}
        record["train/loss"] = sum(losses.values())
        for key, values in self.model.diagnostics().items():
            pairs = zip(names, values.tolist(), strict=True)
            record |= {f"train/{name}/{key}": value for name, value in pairs}
        for group in self.groups:
            record[f"train/{group.name}_lr"] = group.optimizer.param_groups[0]["lr"]
        self.recorder.log(record)

    def _save(self, name: str) -> None:
        if not self.ranks.is_first:
            return
        save_checkpoint(self.checkpoint_dir / name, self.content())
        self._saved_at = time.monotonic()

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds; its tensors are those of the run, not copies."""
        return {
            "state": {**self.state.state_dict(), "wall_s": self.wall_s},
            "model": self.model.state_dict(),
            "optimizers": {group.name: group.optimizer.state_dict() for group in self.groups},
            "schedulers": {group.name: group.scheduler.state_dict() for group in self.groups},
            "window": self.window.sums.clone(),
            "loss_scale": None if self.loss_scale is None else self.loss_scale.state_dict(),
            "rng": rng_state(),
            "records": self.recorder.position(),
            "config": self.config,
        }


class LossWindow:
    """Sums of task losses and their counts since the last record, kept on the device."""

    def __init__(self, num_tasks: int, device: torch.device) -> None:
        self.sums = torch.zeros(2, num_tasks, device=device)

    def add(self, losses: Tensor) -> None:
        """Adds what :func:`train_step` returned, shape ``[2, K]``."""
        self.sums += losses

    def take(self) -> list[float | None]:
        """Means, None for a task that had no loss; starts a new window."""
        pairs = zip(*self.sums.tolist(), strict=True)
        self.sums.zero_()
        return [total / num if num else None for total, num in pairs]
