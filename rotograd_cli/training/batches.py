"""Which examples are trained on and evaluated, in which batches.

The batches of an epoch are a function of seed and epoch, so that it can be resumed anywhere.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, in_parts
from rotograd_cli.errors import ConfigError
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.training.options import TrainOptions
from rotograd_cli.training.seeding import epoch_draws, epoch_order, epoch_seeds


def num_steps(dataset: MultiTaskDataset, options: TrainOptions) -> int:
    """Return the number of optimiser steps per epoch; an incomplete batch is left out."""
    num = dataset.batches_per_epoch(options.batch_size)
    return num if options.limit_batches is None else min(num, options.limit_batches)


def num_evaluated(dataset: MultiTaskDataset, split: Split, options: TrainOptions) -> int:
    """Return how many examples of a split, the first ones, an evaluation reads.

    With ``limit_batches`` the training split is cut to the number of examples trained on.

    Args:
        dataset: The data.
        split: Which split.
        options: Batch sizes and limits.
    """
    num = dataset.num_examples(split)
    if options.limit_eval_batches is not None:
        num = min(num, options.limit_eval_batches * options.eval_batch_size)
    if split == "train" and options.limit_batches is not None:
        num = min(num, options.limit_batches * options.batch_size)
    return num


def evaluation_parts(
    dataset: MultiTaskDataset, split: Split, options: TrainOptions
) -> Sequence[Tensor]:
    """Return the positions of the batches of a split, in its order, that every evaluation reads.

    Args:
        dataset: The data.
        split: Which split.
        options: Batch sizes and limits.
    """
    num = num_evaluated(dataset, split, options)
    return in_parts(torch.arange(num), options.eval_batch_size)


def complete_batches(
    dataset: MultiTaskDataset, split: Split, parts: Sequence[Tensor]
) -> Iterator[Batch]:
    """Read the batches of a split, as many as were asked for.

    Args:
        dataset: The data.
        split: Which split.
        parts: Positions of every batch.

    Yields:
        The batches.

    Raises:
        ConfigError: If the data set yields another number, as a loader that drops the last one.
    """
    num = 0
    for batch in dataset.batches(split, parts):
        num += 1
        if num <= len(parts):
            yield batch
    if num != len(parts):
        raise ConfigError(
            f"Data set {dataset.name!r}, split {split}: `batches` must yield a batch for each of "
            f"the {len(parts)} parts, got {num}; yield the last, smaller one too (drop_last=False)."
        )


def cut_notes(
    dataset: MultiTaskDataset, splits: Sequence[Split], options: TrainOptions
) -> tuple[str, ...]:
    """Return notes for numbers that do not come from whole splits.

    Args:
        dataset: The data.
        splits: Splits that are evaluated.
        options: Batch sizes and limits.

    Returns:
        A sentence for each cut; none where all examples are read.
    """
    notes = []
    num = num_steps(dataset, options)
    num_batches = dataset.batches_per_epoch(options.batch_size)
    if num < num_batches:
        notes.append(
            f"cut training: {num} of {num_batches} batches per epoch (train.limit_batches)"
        )
    for split in splits:
        evaluated = num_evaluated(dataset, split, options)
        whole = dataset.num_examples(split)
        is_of_training = num < num_batches and evaluated == num * options.batch_size
        key = "train.limit_eval_batches"
        if split == "train" and is_of_training:
            key = "train.limit_batches"
        if evaluated < whole:
            notes.append(
                f"cut evaluation: the first {evaluated:,} of {whole:,} examples of {split} ({key})"
            )
    return tuple(notes)


def check_batch_size(dataset: MultiTaskDataset, options: TrainOptions) -> None:
    """Refuse batches that the training split cannot fill.

    Raises:
        ConfigError: If there are fewer training examples.
    """
    num = dataset.num_examples("train")
    if options.batch_size > num:
        raise ConfigError(
            f"`train.batch_size` must be at most the {num} training examples, got "
            f"{options.batch_size}; lower it."
        )


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
        check_batch_size(self.dataset, self.options)
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
        batches = self._timed(self._read(parts, epoch, done))
        micro_batches: list[Batch] = []
        for batch, rows in zip(batches, in_parts(draws, self._micro_size), strict=True):
            if rows.shape[1]:
                batch = self.dataset.augment(batch, self.ranks.part(rows))
            micro_batches.append(batch)
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
        permuted = partial(epoch_order, seed=self.seed, epoch=epoch)
        shuffled = permuted if self.options.shuffle else lambda num, *words: torch.arange(num)
        size = self.options.batch_size
        return self.dataset.epoch_order(self.num_steps, size, shuffled)

    def _read(self, parts: Sequence[Tensor], epoch: int, done: int) -> Iterator[Batch]:
        """Read batches, with seeds where the data set draws random numbers while it reads."""
        if not (self.dataset.draws_while_reading and self.options.augment):
            return self.dataset.batches("train", parts)
        num = self.num_steps * self.options.batch_size
        seeds = epoch_seeds(num, seed=self.seed, epoch=epoch)[done:]
        of_parts = [self.ranks.part(part) for part in in_parts(seeds, self._micro_size)]
        return self.dataset.seeded_batches(parts, of_parts)

    def _draws(self, epoch: int) -> Tensor:
        num = self.num_steps * self.options.batch_size
        num_draws = self.dataset.num_draws if self.options.augment else 0
        return epoch_draws(num, num_draws, seed=self.seed, epoch=epoch)

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self._waited_s += time.monotonic() - start
            if batch is None:
                return
            yield batch
