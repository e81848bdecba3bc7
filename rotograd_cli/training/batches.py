"""The batches of an epoch: a function of seed and epoch, so that it can be resumed anywhere."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset, in_parts
from rotograd_cli.errors import ConfigError
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.training.coverage import num_steps
from rotograd_cli.training.options import TrainOptions
from rotograd_cli.training.seeding import epoch_draws, epoch_order


@dataclass
class EpochBatches:
    """The micro-batches of every optimiser step of an epoch; an incomplete batch is left out.

    Args:
        dataset: The data.
        options: Sizes, order and augmentation.
        seed: Seed of the order of examples and of the augmentation.
        device: Where the data set's batches are.
        ranks: The processes that share every micro-batch.

    Raises:
        ConfigError: If no batch fits the training split, or a micro-batch has too few examples.
    """

    dataset: MultiTaskDataset
    options: TrainOptions
    seed: int
    device: torch.device
    ranks: Ranks = ONE
    _waited_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        num = self.dataset.num_examples("train")
        size = self.options.batch_size
        if size > num:
            raise ConfigError(
                f"`train.batch_size` must be at most the {num} training examples, got {size}; "
                "lower it."
            )
        if self._micro_size < self.ranks.size:
            raise ConfigError(
                f"`train.batch_size` must give each of the {self.ranks.size} ranks an example, got "
                f"{self._micro_size} per backward pass; raise it or train with fewer processes."
            )

    @property
    def num_steps(self) -> int:
        """Optimiser steps per epoch."""
        return num_steps(self.dataset, self.options)

    def steps(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]:
        """Read what is left of an epoch.

        Args:
            epoch: Epoch from 0.
            first: Steps of it that have been taken already.

        Yields:
            The micro-batches of each step, augmented, this rank's rows of them.
        """
        done = first * self.options.batch_size
        order = self._order(epoch)[done:]
        if len(order) == 0:  # saved after the epoch's last step
            return
        draws = self._draws(epoch)[done:].to(self.device)
        parts = [self.ranks.part(part) for part in in_parts(order, self._micro_size)]
        batches = self._timed(self.dataset.batches("train", parts))
        micro_batches: list[Batch] = []
        for batch, rows in zip(batches, in_parts(draws, self._micro_size), strict=True):
            micro_batches.append(self._augmented(batch, self.ranks.part(rows)))
            if len(micro_batches) == self.options.accumulate_steps:
                yield micro_batches
                micro_batches = []

    def take_waited_s(self) -> float:
        """Return the seconds spent on waiting for examples since the last call."""
        waited_s = self._waited_s
        self._waited_s = 0.0
        return waited_s

    @property
    def _micro_size(self) -> int:
        return self.options.batch_size // self.options.accumulate_steps

    def _order(self, epoch: int) -> Tensor:
        num = self.dataset.num_examples("train")
        if self.options.shuffle:
            order = epoch_order(num, seed=self.seed, epoch=epoch)
        else:
            order = torch.arange(num)
        return order[: self.num_steps * self.options.batch_size]

    def _draws(self, epoch: int) -> Tensor:
        num = self.num_steps * self.options.batch_size
        num_draws = self.dataset.num_draws if self.options.augment else 0
        return epoch_draws(num, num_draws, seed=self.seed, epoch=epoch)

    def _augmented(self, batch: Batch, draws: Tensor) -> Batch:
        return self.dataset.augment(batch, draws) if draws.shape[1] else batch

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self._waited_s += time.monotonic() - start
            if batch is None:
                return
            yield batch
