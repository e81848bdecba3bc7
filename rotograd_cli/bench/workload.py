"""The batches of a benchmark."""

import dataclasses
import itertools
from collections.abc import Iterator

from torch import Tensor

from rotograd_cli.bench.contenders import DTYPES
from rotograd_cli.data.base import Batch
from rotograd_cli.runs.building import Networks
from rotograd_cli.runs.config import BenchConfig
from rotograd_cli.training.batches import EpochBatches

NUM_BATCHES = 4
"""Batches that every contender goes through again and again."""


def first_batches(config: BenchConfig, networks: Networks) -> list[Batch]:
    """Return the first batches of the first epoch, in the type of the benchmark.

    Args:
        config: Checked configuration.
        networks: What it builds.

    Raises:
        ConfigError: If the training split has fewer examples than a batch.
    """
    epoch = _epochs(config, networks, NUM_BATCHES, augment=False).steps(0)
    return [converted(batch, config.bench.dtype) for (batch,) in epoch]


def batches(config: BenchConfig, networks: Networks, num: int, *, augment: bool) -> Iterator[Batch]:
    """Read the first batches of training; another epoch follows where one has too few.

    Args:
        config: Checked configuration.
        networks: What it builds.
        num: Number of batches.
        augment: Whether the data set's augmentation is applied.
    """
    epochs = _epochs(config, networks, num, augment=augment)
    steps = itertools.chain.from_iterable(map(epochs.steps, itertools.count()))
    return (batch for (batch,) in itertools.islice(steps, num))


def _epochs(config: BenchConfig, networks: Networks, limit: int, *, augment: bool) -> EpochBatches:
    """At most ``limit`` whole batches of every epoch, in the order of training."""
    options = dataclasses.replace(
        config.train, accumulate_steps=1, shuffle=True, limit_batches=limit, augment=augment
    )
    return EpochBatches(networks.dataset, options, config.seed, networks.device)


def converted(batch: Batch, dtype: str) -> Batch:
    """Return a batch with its floating-point tensors in the type of the benchmark.

    Args:
        batch: A batch of the data set.
        dtype: ``bench.dtype``.
    """

    def convert(tensor: Tensor) -> Tensor:
        return tensor.to(DTYPES[dtype]) if tensor.is_floating_point() else tensor

    targets = {name: convert(target) for name, target in batch.targets.items()}
    return Batch(convert(batch.inputs), targets)
