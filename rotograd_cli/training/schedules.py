"""An optimiser with the schedule of its learning rates: warm-up, then steps, epochs or evaluations.

torch's ``SequentialLR`` has one counter for all of its schedules. Here the warm-up always goes by
steps, the schedule after it by whatever it counts.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

LEARNING_RATES = {"model": "train/lr", "method": "train/method_lr"}
"""Key of an optimiser's learning rate in records."""


@dataclass(frozen=True)
class RunLength:
    """How long a run is planned to be."""

    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def num_advances(self, interval: str, warmup_steps: int) -> int:
        """Return how often a schedule advances after the warm-up, to the end of training.

        Args:
            interval: ``step`` or ``epoch``.
            warmup_steps: Steps before the schedule begins. An epoch in which the warm-up ends is
                the first of the schedule, unless it ends with the epoch.

        Examples:
            >>> length = RunLength(epochs=4, steps_per_epoch=10)
            >>> [length.num_advances("epoch", steps) for steps in (0, 9, 10, 11)]
            [4, 4, 3, 3]
        """
        if interval == "step":
            return self.steps - warmup_steps
        return self.epochs - warmup_steps // self.steps_per_epoch


@dataclass
class OptimizerGroup:
    """An optimiser with its schedule."""

    name: str
    """``model`` or ``method``."""
    optimizer: Optimizer
    scheduler: LRScheduler
    interval: str
    """When the schedule advances: after a ``step``, an ``epoch`` or an ``evaluation``."""
    warmup_steps: int = 0
    """First steps, in which the rates grow linearly; the schedule begins after them."""
    ends_with_run: bool = False
    """Whether the schedule depends on how long the run is planned to be."""
    patterns: Sequence[str] = ("",)
    """For each parameter group the patterns that set its options, joined by ``&``; empty if
    none does."""

    def __post_init__(self) -> None:
        groups = self.optimizer.param_groups
        self._start = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        state = self.scheduler.state_dict() if self.ends_with_run else {}
        self._schedule_start = copy.deepcopy(state)
        if self.warmup_steps:
            self._warm_up(0)

    def advance(self, interval: str, step: int, *value: float) -> None:
        """Set the learning rates for what comes next.

        Args:
            interval: What has ended: a ``step``, an ``epoch`` or an ``evaluation``.
            step: Optimiser steps taken so far.
            *value: Selection value of the evaluation.
        """
        if step > self.warmup_steps and interval == self.interval:
            self.scheduler.step(*value)  # type: ignore[arg-type]
        elif step <= self.warmup_steps and interval == "step":
            self._warm_up(step)

    def _warm_up(self, step: int) -> None:
        """Set the rates of step i + 1 of n to (i + 1) / (n + 1) of those that the schedule has."""
        share = (step + 1) / (self.warmup_steps + 1)
        for group, start in zip(self.optimizer.param_groups, self._start, strict=True):
            group["lr"] = start["lr"] * share

    def replay(self, step: int) -> tuple[float, float]:
        """Advance the schedule anew, as often as it has been, for a run that became longer.

        Args:
            step: Optimiser steps taken so far.

        Returns:
            The learning rate of the first group before and now.
        """
        before: float = self.optimizer.param_groups[0]["lr"]
        num = self.scheduler.last_epoch
        self.scheduler.load_state_dict(copy.deepcopy(self._schedule_start))
        for group, start in zip(self.optimizer.param_groups, self._start, strict=True):
            group.update(start)
        with warnings.catch_warnings(action="ignore"):  # torch misses the optimiser's steps
            for _ in range(num):
                self.scheduler.step()
        if step <= self.warmup_steps:
            self._warm_up(step)
        return before, self.optimizer.param_groups[0]["lr"]

    def learning_rates(self) -> dict[str, float]:
        """Return the rates by key of a record: of the first group, and of those with patterns."""
        key = LEARNING_RATES[self.name]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        named = zip(self.patterns, rates, strict=True)
        by_pattern = {f"{key}[{pattern}]": rate for pattern, rate in named if pattern}
        return {key: rates[0], **by_pattern}
