"""What the loop remembers of a run, besides model, optimisers and generators."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rotograd_cli.errors import SelectionError
from rotograd_cli.training.options import NONFINITE_REMEDY, TrainOptions
from rotograd_cli.training.selection import Selection

_LATER = (
    *("num_evaluations", "num_candidates", "initial_losses", "averaged"),
    *("num_since_best", "extended_at"),
)
"""Fields of the state that checkpoints of earlier versions lack."""


@dataclass
class TrainState:
    """What the loop carries from step to step, besides model, optimisers and generators."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Optimiser steps taken."""
    skipped_steps: int = 0
    """Those of them without an update, because a loss or a gradient was not finite."""
    batch: int = 0
    """Steps taken in the epoch under way: where the next one is in the epoch's order."""
    evaluation_due: bool = False
    """An epoch is finished and not evaluated yet."""
    best_epoch: int = 0
    """Epoch (from 1) with the best selection value; 0 before the first finite one."""
    best_value: float = float("nan")
    """Its selection value."""
    best_metrics: dict[str, float] = field(default_factory=dict)
    """All evaluation metrics of that epoch."""
    num_evaluations: int = 0
    """Evaluated epochs."""
    num_candidates: int = 0
    """Those of them with a finite selection value."""
    num_since_best: int = 0
    """Evaluated epochs since the best one."""
    initial_losses: dict[str, float] = field(default_factory=dict)
    """Losses of the untrained network by task, where the selection is relative to them."""
    averaged: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the last epochs, of those evaluated so far whose mean is reported."""
    extended_at: list[int] = field(default_factory=list)
    """Finished epochs whenever the run was made longer."""
    train_s: float = 0.0
    """Wall time spent in training steps, in seconds."""
    data_s: float = 0.0
    """The part of it in which a step waited for its examples, in seconds."""
    wall_s: float = 0.0
    """Wall time of earlier processes that trained this run, in seconds."""

    @classmethod
    def restored(cls, fields: dict[str, Any]) -> "TrainState":
        """Return the state that a checkpoint holds.

        Raises:
            TypeError: If a field is missing, unknown or of another type.
        """
        start = asdict(cls())
        complete = {name: start[name] for name in _LATER} | fields
        if {k: type(v) for k, v in complete.items()} != {k: type(v) for k, v in start.items()}:
            raise TypeError("`state` has other fields")
        return cls(**complete)

    def update_best(self, metrics: dict[str, float], selection: Selection) -> bool:
        """Keep the metrics of the epoch just finished if its selection value is the best so far.

        Args:
            metrics: Evaluation metrics of the epoch.
            selection: How epochs are compared.

        Returns:
            Whether this epoch is the best; one whose value is not finite never is.
        """
        value = metrics[selection.key]
        self.num_evaluations += 1
        self.num_candidates += math.isfinite(value)
        self.num_since_best += 1
        if not selection.is_better(value, self.best_value):
            return False
        self.num_since_best = 0
        self.best_epoch = self.epoch
        self.best_value = value
        self.best_metrics = dict(metrics)
        return True

    def is_over(self, options: TrainOptions) -> bool:
        """Return whether no epoch is left to train: all are finished, or the best is long ago."""
        is_early = options.patience is not None and self.num_since_best >= options.patience
        return is_early or self.epoch >= options.epochs

    def update_mean(self, metrics: dict[str, float], selection: Selection) -> None:
        """Keep the metrics of one of the last epochs, and their mean so far in place of the best.

        Args:
            metrics: Metrics of the epoch just finished, those of the test split among them.
            selection: Names the value by which runs are compared.
        """
        self.averaged.append(dict(metrics))
        self.best_epoch = self.epoch
        self.best_metrics = {key: _mean([m[key] for m in self.averaged]) for key in metrics}
        self.best_value = self.best_metrics[selection.key]

    def describe_selected(self, selection: Selection) -> str:
        """Return which epoch was selected and what it was compared with.

        Args:
            selection: How epochs were compared.

        Raises:
            SelectionError: If no epoch had a finite value: nothing may be tested.
        """
        if self.averaged:
            first = self.epoch - len(self.averaged) + 1
            return f"Results are the mean of epochs {first} to {self.epoch}; none is selected."
        if not math.isfinite(self.best_value):  # an earlier version chose epoch 1 by NaN
            raise SelectionError(
                f"No epoch can be selected: {selection.key} was infinite or NaN in every "
                "evaluation (metrics.jsonl has them by task); choose another train.select, or "
                f"{NONFINITE_REMEDY}."
            )
        compared = f"{self.num_evaluations} evaluations"
        if self.num_candidates < self.num_evaluations:
            compared = f"the {self.num_candidates} finite values of {compared}"
        return (
            f"Selected epoch {self.best_epoch}: {selection.key} {self.best_value:.4f}, the best of "
            f"{compared}."
        )


def _mean(values: Sequence[float]) -> float:
    """Mean, rounded once; infinite or NaN where the values make it so."""
    num = len(values)
    try:
        return math.fsum(values) / num
    except (OverflowError, ValueError):  # of huge values, of infinite ones of both signs
        return sum(value / num for value in values)
