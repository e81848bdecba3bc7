"""Examples per second: the loader alone, with augmentation, and a training step fed by it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from rotograd_cli.bench.measure import Plan, Subject, measure
from rotograd_cli.bench.statistics import spread, times_by_round
from rotograd_cli.bench.workload import batches
from rotograd_cli.data.base import Batch
from rotograd_cli.runs.building import Networks
from rotograd_cli.runs.config import BenchConfig

LOADER = "loader"
AUGMENTED = "loader and augmentation"
STEP = "whole step"


def loading(
    config: BenchConfig, networks: Networks, num: int, step: Callable[[Batch], None], plan: Plan
) -> dict[str, Any]:
    """Measure passes over the first batches of training, files read as in training.

    Args:
        config: Checked configuration.
        networks: What it builds.
        num: Batches of a pass.
        step: A training step on a batch.
        plan: How long.

    Returns:
        ``examples_per_s`` (median and spread over the rounds) of the three, and the share of the
        whole step's time, in percent, in which it waited for its batch.
    """
    plain = partial(batches, config, networks, num, augment=False)
    augmented = partial(batches, config, networks, num, augment=True)
    waiting: list[float] = []
    subjects = [
        Subject(LOADER, lambda: _exhaust(plain())),
        Subject(AUGMENTED, lambda: _exhaust(augmented())),
        Subject(STEP, lambda: waiting.append(_waiting_percent(augmented(), step))),
    ]
    times = times_by_round(measure(subjects, plan, networks.device))
    size = config.train.batch_size * num
    return {
        "batches": num,
        "examples_per_s": {
            subject.name: asdict(spread([size / s for s in times[subject.name].values()]))
            for subject in subjects
        },
        "waiting_percent": asdict(spread(waiting[plan.warmup_steps :])),
    }


def _exhaust(examples: Iterator[Batch]) -> None:
    for _ in examples:
        pass


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
