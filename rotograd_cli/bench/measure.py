"""Time and memory of a step: blocks of steps, interleaved in random order; one profiled step."""

import gc
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from rotograd_cli.config.schema import BenchOptions


@dataclass(frozen=True)
class Block:
    """One uninterrupted stretch of steps of one subject."""

    subject: str
    """Whose steps."""
    round: int
    """Round, from 0."""
    position: int
    """Place in the order of the round, from 0."""
    steps: int
    """Number of steps."""
    seconds: float
    """Time of all of them."""

    @property
    def step_s(self) -> float:
        """Mean time of a step in seconds."""
        return self.seconds / self.steps


@dataclass(frozen=True)
class Subject:
    """What is timed."""

    name: str
    step: Callable[[], object]
    """One step."""
    reset: Callable[[], object] = lambda: None
    """Called before every block, not timed."""


def interleaved_orders(num: int, rounds: int, seed: int) -> list[list[int]]:
    """Return a fresh permutation of 0..num-1 for every round."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(num, generator=generator).tolist() for _ in range(rounds)]


def warm_up(subject: Subject, steps: int, device: torch.device) -> float:
    """Run the first steps, at least one, and return the seconds of the last one.

    In them libraries compile, choose kernels and fill their caches.
    """
    subject.reset()
    for _ in range(steps):
        seconds = timed(subject.step, 1, device)
    return seconds


def blocks(
    subjects: Sequence[Subject],
    options: BenchOptions,
    seed: int,
    device: torch.device,
    progress: Callable[[int], object],
) -> list[Block]:
    """Warm every subject up, then time blocks of steps, round by round.

    The number of steps of a block follows from the subject's latest block (at first from its last
    warm-up step), so that no clock is read, and no device waited for, inside a block.

    Args:
        subjects: What is timed.
        options: How long.
        seed: Seed of the order in every round.
        device: Where it runs.
        progress: Called with the number of rounds done, after each.

    Returns:
        All blocks in the order of their execution.
    """
    step_s = [warm_up(subject, options.warmup_steps, device) for subject in subjects]
    result = []
    with _old_objects_left_alone():
        for index, order in enumerate(interleaved_orders(len(subjects), options.rounds, seed)):
            for position, which in enumerate(order):
                subject = subjects[which]
                subject.reset()
                gc.collect()  # nobody pays for the garbage of another
                steps = block_steps(step_s[which], options)
                seconds = timed(subject.step, steps, device)
                result.append(Block(subject.name, index, position, steps, seconds))
                step_s[which] = seconds / steps
            progress(index + 1)
    return result


@contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """Keep the garbage collector from what was there before: libraries, mostly."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def block_steps(step_s: float, options: BenchOptions) -> int:
    """Return the number of steps that fill a block: at least one, and no more than allowed."""
    steps = int(options.block_s / max(step_s, 1e-9))
    if options.max_steps_per_block is not None:
        steps = min(steps, options.max_steps_per_block)
    return max(1, steps)


def timed(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Return the seconds of some steps; the device is waited for before and after, not between."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for everything that was queued on a device; the CPU has no queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(step: Callable[[], None], device: torch.device) -> int:
    """Return the largest number of bytes that a step holds beyond what was held before it.

    Counted are torch's own allocations: of the device's caching allocator, or of the CPU's
    allocator as the profiler reports them. Workspaces of BLAS libraries are not among them.
    """
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    return max(itertools.accumulate(_cpu_allocations(step), initial=0))


def _cpu_allocations(step: Callable[[], None]) -> list[int]:
    """Bytes allocated (positive) and freed (negative) on the CPU, in the order of time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    changes = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(changes, key=lambda e: e.start_ns())]


@contextmanager
def num_threads(num: int | None) -> Iterator[None]:
    """Let torch compute with this many threads; None leaves it as it is."""
    before = torch.get_num_threads()
    if num is not None:
        torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, 10th and 90th percentile, interpolated linearly between neighbours.

    Examples:
        >>> spread([1.0, 2.0, 3.0])
        {'median': 2.0, 'p10': 1.2, 'p90': 2.8}
    """
    percentiles = {"median": 50, "p10": 10, "p90": 90}
    return {name: float(np.percentile(values, q)) for name, q in percentiles.items()}


def step_times(blocks: Iterable[Block]) -> dict[str, list[float]]:
    """Return the mean time of a step in seconds, by subject, round after round."""
    result: dict[str, list[float]] = defaultdict(list)
    for block in blocks:
        result[block.subject].append(block.step_s)
    return result


def paired_ratios(times: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return the ratio of two subjects' times for every round.

    A machine that slows down for a while slows both, and the ratio stays.

    Args:
        times: Time by round.
        base: Time of the denominator by round.
    """
    return [value / base_value for value, base_value in zip(times, base, strict=True)]
