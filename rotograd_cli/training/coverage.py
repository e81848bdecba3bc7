"""Which examples of a split are trained on and evaluated, and what is said where some are not."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, in_parts
from rotograd_cli.errors import ConfigError


class Limits(Protocol):
    """The options of the loop that decide how much is read."""

    @property
    def batch_size(self) -> int:
        """Examples per optimiser step."""

    @property
    def eval_batch_size(self) -> int:
        """Examples per batch of an evaluation."""

    @property
    def limit_batches(self) -> int | None:
        """Optimiser steps per epoch; None for all."""

    @property
    def limit_eval_batches(self) -> int | None:
        """Batches per evaluation; None for all."""


def num_evaluated(dataset: MultiTaskDataset, split: Split, limits: Limits) -> int:
    """Number of examples of a split that an evaluation reads: the first ones.

    With ``limit_batches`` the training split is cut to the number of examples trained on.

    Args:
        dataset: The data.
        split: Which split.
        limits: Batch sizes and limits.

    Returns:
        The number.
    """
    num = dataset.num_examples(split)
    if limits.limit_eval_batches is not None:
        num = min(num, limits.limit_eval_batches * limits.eval_batch_size)
    if split == "train" and limits.limit_batches is not None:
        num = min(num, limits.limit_batches * limits.batch_size)
    return num


def evaluation_parts(dataset: MultiTaskDataset, split: Split, limits: Limits) -> Sequence[Tensor]:
    """Positions of the batches of a split in its own order, as every evaluation reads them.

    Args:
        dataset: The data.
        split: Which split.
        limits: Batch sizes and limits.

    Returns:
        The positions of every batch.
    """
    num = num_evaluated(dataset, split, limits)
    return in_parts(torch.arange(num), limits.eval_batch_size)


def complete_batches(
    dataset: MultiTaskDataset, split: Split, parts: Sequence[Tensor]
) -> Iterator[Batch]:
    """Batches of a split, as many as were asked for.

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
        yield batch
    if num != len(parts):
        raise ConfigError(
            f"Data set {dataset.name!r}, split {split}: `batches` must yield a batch for each of "
            f"the {len(parts)} parts, got {num}; yield the last, smaller one too (drop_last=False)."
        )


def cut_notes(
    dataset: MultiTaskDataset, splits: Sequence[Split], limits: Limits
) -> tuple[str, ...]:
    """What must be said of numbers that do not come from whole splits.

    Args:
        dataset: The data.
        splits: Splits that are evaluated.
        limits: Batch sizes and limits.

    Returns:
        A sentence for each cut; none where all examples are read.
    """
    notes = []
    num = dataset.num_examples("train")
    if limits.limit_batches is not None and limits.limit_batches < num // limits.batch_size:
        notes.append(
            f"cut training: {limits.limit_batches} of {num // limits.batch_size} batches per epoch "
            "(train.limit_batches)"
        )
    for split in splits:
        evaluated = num_evaluated(dataset, split, limits)
        whole = dataset.num_examples(split)
        limit = limits.limit_batches if split == "train" else None
        is_of_training = limit is not None and evaluated == limit * limits.batch_size
        key = "train.limit_batches" if is_of_training else "train.limit_eval_batches"
        if evaluated < whole:
            notes.append(
                f"cut evaluation: the first {evaluated:,} of {whole:,} examples of {split} ({key})"
            )
    return tuple(notes)
