"""The batches of a benchmark, and how fast they are loaded."""

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from rotograd_cli.bench.contenders import DTYPES
from rotograd_cli.bench.measure import Subject, blocks, spread, times_by_round
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


def loading(
    config: BenchConfig, networks: Networks, num: int, step: Callable[[Batch], None]
) -> dict[str, Any]:
    """Measure passes over the first batches of training, files read as in training.

    Args:
        config: Checked configuration.
        networks: What it builds.
        num: Batches of a pass.
        step: A training step on a batch.

    Returns:
        ``examples_per_s`` (median and spread over the rounds) of the three, and the share of the
        whole step's time, in percent, in which it waited for its batch.
    """
    plain = partial(batches, config, networks, num, augment=False)
    augmented = partial(batches, config, networks, num, augment=True)
    waiting: list[float] = []
    subjects = [
        Subject("loader", lambda: deque(plain(), maxlen=0)),
        Subject("loader and augmentation", lambda: deque(augmented(), maxlen=0)),
        Subject("whole step", lambda: waiting.append(_waiting_percent(augmented(), step))),
    ]
    times = times_by_round(blocks(subjects, config.bench, config.seed, networks.device))
    size = config.train.batch_size * num
    return {
        "batches": num,
        "examples_per_s": {
            subject.name: spread([size / s for s in times[subject.name].values()])
            for subject in subjects
        },
        "waiting_percent": spread(waiting[config.bench.warmup_steps :]),
    }


def _waiting_percent(examples: Iterator[Batch], step: Callable[[Batch], None]) -> float:
    """Share of the time of some steps in which they waited for their batch."""
    start = time.perf_counter()
    waited_s = 0.0
    while True:
        before = time.perf_counter()
        batch = next(examples, None)
        waited_s += time.perf_counter() - before
        if batch is None:
            return 100 * waited_s / (time.perf_counter() - start)
        step(batch)
