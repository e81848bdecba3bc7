"""Which examples of a split are trained on and evaluated, and what is said where some are not."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, in_parts
from rotograd_cli.errors import ConfigError
from rotograd_cli.training.options import TrainOptions


def num_steps(dataset: MultiTaskDataset, options: TrainOptions) -> int:
    """Return the number of optimiser steps per epoch; an incomplete batch is left out."""
    num = dataset.num_examples("train") // options.batch_size
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
    num_batches = dataset.num_examples("train") // options.batch_size
    if options.limit_batches is not None and options.limit_batches < num_batches:
        notes.append(
            f"cut training: {options.limit_batches} of {num_batches} batches per epoch "
            "(train.limit_batches)"
        )
    for split in splits:
        evaluated = num_evaluated(dataset, split, options)
        whole = dataset.num_examples(split)
        limit = options.limit_batches if split == "train" else None
        is_of_training = limit is not None and evaluated == limit * options.batch_size
        key = "train.limit_batches" if is_of_training else "train.limit_eval_batches"
        if evaluated < whole:
            notes.append(
                f"cut evaluation: the first {evaluated:,} of {whole:,} examples of {split} ({key})"
            )
    return tuple(notes)
