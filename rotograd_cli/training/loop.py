"""The training loop: epochs of steps, an evaluation after each, the selected epoch tested once."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, in_parts
from rotograd_cli.errors import ConfigError, NonFiniteError
from rotograd_cli.methods.base import MultiTaskMethod
from rotograd_cli.seeding import epoch_draws, epoch_order, rng_state
from rotograd_cli.training.checkpoint import load_checkpoint, load_weights, save_checkpoint
from rotograd_cli.training.state import TrainState
from rotograd_cli.training.step import evaluate, evaluation_keys, train_step

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Where the loop sends its records."""

    def log(self, record: dict[str, float]) -> None:
        """Takes one record: ``step``, ``epoch`` and values by ``split/task/metric``."""

    def poll(self) -> None:
        """Called between batches, where stopping is safe; raises if the run is to stop."""

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

    Raises:
        ConfigError: If no batch fits the training split, or the selection key is not a metric.
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
    ) -> None:
        self.model, self.dataset, self.groups = model, dataset, groups
        self.options, self.recorder = options, recorder
        self.checkpoint_dir, self.seed, self.device, self.config = (
            checkpoint_dir,
            seed,
            device,
            config,
        )
        self.state = TrainState()
        self._check()

    def fit(self) -> dict[str, float]:
        """Trains all epochs, then tests the selected one.

        Returns:
            Metrics of the selected epoch: evaluation splits as recorded then, and the test split.

        Raises:
            NonFiniteError: If a task loss becomes infinite or NaN; the last checkpoint is kept.
        """
        options = self.options
        while self.state.epoch < options.epochs:
            self.train_epoch()
            last = self.state.epoch == options.epochs
            if self.state.epoch % options.eval_every_epochs and not last:
                self._save("last.pt")
                continue
            metrics = self.evaluate_epoch()
            is_best = self.state.update_best(metrics, options.select, options.select_mode)
            if is_best:  # first, so that last.pt never names a best epoch that best.pt lacks
                self._save("best.pt")
            self._save("last.pt")
        return self.test()

    def train_epoch(self) -> None:
        """One pass over the training split, partial batches left out."""
        start = time.monotonic()
        self.model.train()
        batches = self.num_batches
        window = _LossWindow(len(self.dataset.tasks), self.device)
        for index, micro_batches in enumerate(self._micro_batches()):
            self.recorder.poll()
            losses = train_step(
                self.model,
                self.dataset.tasks,
                micro_batches,
                [group.optimizer for group in self.groups],
                grad_clip_norm=self.options.grad_clip_norm,
            )
            self.state.step += 1
            self._advance("step")
            window.add(losses)
            if self.state.step % self.options.log_every_steps == 0 or index == batches - 1:
                self._record(window)
            self.recorder.progress(self.state, batches, index)
        self.model.end_epoch()
        self._advance("epoch")
        self.state.epoch += 1
        self.state.train_s += time.monotonic() - start

    @property
    def splits(self) -> list[Split]:
        """Splits that are evaluated after every epoch."""
        return ["train", "val"] if self.options.evaluate_train else ["val"]

    def evaluate_epoch(self) -> dict[str, float]:
        """Metrics of the validation split (and the training split where asked), recorded."""
        metrics = {
            key: value for split in self.splits for key, value in self.metrics(split).items()
        }
        self.recorder.log({"step": self.state.step, "epoch": self.state.epoch, **metrics})
        return metrics

    def test(self) -> dict[str, float]:
        """Metrics of the selected epoch, the test split measured now and recorded."""
        path = self.checkpoint_dir / "best.pt"
        load_weights(self.model, load_checkpoint(path, self.device)["model"], path)
        metrics = self.metrics("test")
        self.recorder.log({"step": self.state.step, "epoch": self.state.best_epoch, **metrics})
        return {**self.state.best_metrics, **metrics}

    def metrics(self, split: Split) -> dict[str, float]:
        """Metrics of a split at the current weights."""
        batches = evaluation_batches(self.dataset, split, self.options)
        return evaluate(self.model, self.dataset.tasks, self._polled(batches), split)

    def _polled(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.recorder.poll()
            yield batch

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
        keys = [key for s in self.splits for key in evaluation_keys(self.dataset.tasks, s)]
        if self.options.select not in keys:
            raise ConfigError(
                f"`train.select` must be a metric of the evaluation, got {self.options.select!r}; "
                f"choose from {', '.join(keys)}."
            )

    def _micro_batches(self) -> Iterator[list[Batch]]:
        num = self.dataset.num_examples("train")
        if self.options.shuffle:
            order = epoch_order(num, seed=self.seed, epoch=self.state.epoch)
        else:
            order = torch.arange(num)
        order = order[: self.num_batches * self.options.batch_size]
        num_draws = self.dataset.num_draws if self.options.augment else 0
        draws = epoch_draws(len(order), num_draws, seed=self.seed, epoch=self.state.epoch)
        draws = draws.to(self.device)
        size = self.options.batch_size // self.options.accumulate_steps
        batches = self.dataset.batches("train", in_parts(order, size))
        micro_batches: list[Batch] = []
        for batch, numbers in zip(self._timed(batches), in_parts(draws, size), strict=True):
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

    def _record(self, window: "_LossWindow") -> None:
        """Means since the last record. The only place of the loop that waits for the device."""
        self.model.refresh()
        names = [task.name for task in self.dataset.tasks]
        means = zip(names, window.take(), strict=True)
        losses = {name: mean for name, mean in means if mean is not None}
        for name, loss in losses.items():
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"The loss of task {name!r} became {loss} before step {self.state.step}; lower "
                    "model_optimizer.lr or method_optimizer.lr, or set train.grad_clip_norm."
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
        content = {
            "state": self.state.state_dict(),
            "model": self.model.state_dict(),
            "optimizers": {group.name: group.optimizer.state_dict() for group in self.groups},
            "schedulers": {group.name: group.scheduler.state_dict() for group in self.groups},
            "rng": rng_state(),
            "config": self.config,
        }
        save_checkpoint(self.checkpoint_dir / name, content)


class _LossWindow:
    """Sums of task losses and their counts since the last record, kept on the device."""

    def __init__(self, num_tasks: int, device: torch.device) -> None:
        self.sums = torch.zeros(2, num_tasks, device=device)

    def add(self, losses: Tensor) -> None:
        self.sums += losses

    def take(self) -> list[float | None]:
        """Means, None for a task that had no loss; starts a new window."""
        pairs = zip(*self.sums.tolist(), strict=True)
        self.sums.zero_()
        return [total / num if num else None for total, num in pairs]


def evaluation_batches(
    dataset: MultiTaskDataset, split: Split, options: LoopOptions
) -> Iterator[Batch]:
    """Batches of a split in its own order, as every evaluation reads them.

    With ``evaluate_train`` and ``limit_batches`` the training split is cut to the examples trained
    on.

    Args:
        dataset: The data.
        split: Which split.
        options: Batch size and limits.

    Returns:
        The batches.
    """
    num = dataset.num_examples(split)
    size = options.eval_batch_size
    if options.limit_eval_batches is not None:
        num = min(num, options.limit_eval_batches * size)
    if split == "train" and options.limit_batches is not None:
        num = min(num, options.limit_batches * options.batch_size)
    return dataset.batches(split, in_parts(torch.arange(num), size))
