"""What the loop remembers."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rotograd_cli.errors import CheckpointError


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
    """Epoch (from 1) with the best selection value; 0 before the first evaluation."""
    best_value: float = float("nan")
    """Its selection value."""
    best_metrics: dict[str, float] = field(default_factory=dict)
    """All evaluation metrics of that epoch."""
    train_s: float = 0.0
    """Wall time spent in training steps, in seconds."""
    data_s: float = 0.0
    """The part of it in which a step waited for its examples, in seconds."""
    wall_s: float = 0.0
    """Wall time of earlier processes that trained this run, in seconds."""

    def state_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        Args:
            state: The fields.

        Raises:
            CheckpointError: If a field is missing, unknown or of another type.
        """
        known = asdict(self)
        if set(state) != set(known) or any(type(state[k]) is not type(known[k]) for k in known):
            raise CheckpointError(
                "The checkpoint's `state` must hold the fields of this version's; resume the run "
                "with the version that it was trained with."
            )
        for key, value in state.items():
            setattr(self, key, value)

    def update_best(self, metrics: dict[str, float], key: str, mode: str) -> bool:
        """Keeps the metrics of the epoch just finished if its selection value is the best so far.

        Args:
            metrics: Evaluation metrics of the epoch.
            key: Selection key.
            mode: ``min`` or ``max``.

        Returns:
            Whether this epoch is the best. NaN never is, unless there is nothing else.
        """
        value = metrics[key]
        better = value < self.best_value if mode == "min" else value > self.best_value
        nothing_yet = self.best_epoch == 0 or (
            math.isnan(self.best_value) and not math.isnan(value)
        )
        if not (better or nothing_yet):
            return False
        self.best_epoch, self.best_value, self.best_metrics = self.epoch, value, dict(metrics)
        return True
