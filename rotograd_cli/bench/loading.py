"""Examples per second: the loader alone, with augmentation, and a training step fed by it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from rotograd_cli.bench.measure import Plan, Subject, measure
from rotograd_cli.bench.statistics import spread, times_by_round
from rotograd_cli.data.base import Batch, MultiTaskDataset, in_parts
from rotograd_cli.training.seeding import epoch_draws, epoch_order

LOADER, AUGMENTED, STEP = "loader", "loader and augmentation", "whole step"


def loading(
    dataset: MultiTaskDataset,
    step: Callable[[Batch], None],
    *,
    batch_size: int,
    num_batches: int,
    plan: Plan,
    device: torch.device,
) -> dict[str, Any]:
    """Measures passes over the first batches of an epoch, files read as in training.

    Args:
        dataset: The data.
        step: A training step on a batch.
        batch_size: Examples per batch, at most those of the training split.
        num_batches: Batches of a pass; the epoch's order is repeated where it is shorter.
        plan: How long.
        device: Where the batches are wanted.

    Returns:
        ``examples_per_s`` (median and spread over the rounds) of the three, and the share of the
        whole step's time, in percent, in which it waited for its batch.
    """
    feed = _Feed(dataset, batch_size, num_batches, plan.seed, device)
    waiting: list[float] = []

    def whole() -> None:
        start, waited = time.perf_counter(), 0.0
        batches = feed.augmented()
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - before
            if batch is None:
                break
            step(batch)
        waiting.append(100 * waited / (time.perf_counter() - start))

    subjects = [
        Subject(LOADER, lambda: _exhaust(feed.plain())),
        Subject(AUGMENTED, lambda: _exhaust(feed.augmented())),
        Subject(STEP, whole),
    ]
    times = times_by_round(measure(subjects, plan, device))
    num = batch_size * num_batches
    return {
        "batches": num_batches,
        "examples_per_s": {
            subject.name: asdict(spread([num / s for s in times[subject.name].values()]))
            for subject in subjects
        },
        "waiting_percent": asdict(spread(waiting[plan.warmup_steps :])),
    }


class _Feed:
    """The batches of a pass."""

    def __init__(
        self,
        dataset: MultiTaskDataset,
        batch_size: int,
        num_batches: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.dataset = dataset
        num = dataset.num_examples("train") // batch_size * batch_size
        order = epoch_order(dataset.num_examples("train"), seed=seed, epoch=0)[:num]
        wanted = torch.arange(num_batches * batch_size) % num
        draws = epoch_draws(num, dataset.num_draws, seed=seed, epoch=0).to(device)
        self.order = in_parts(order[wanted], batch_size)
        self.draws = in_parts(draws[wanted.to(device)], batch_size)

    def plain(self) -> Iterator[Batch]:
        return self.dataset.batches("train", self.order)

    def augmented(self) -> Iterator[Batch]:
        for batch, draws in zip(self.plain(), self.draws, strict=True):
            yield self.dataset.augment(batch, draws) if self.dataset.num_draws else batch


def _exhaust(batches: Iterator[Batch]) -> None:
    for _ in batches:
        pass
