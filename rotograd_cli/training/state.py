"""What the loop remembers."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rotograd_cli.errors import CheckpointError, SelectionError
from rotograd_cli.training.options import NONFINITE_REMEDY
from rotograd_cli.training.selection import Selection

_LATER = ("num_evaluations", "num_candidates", "initial_losses")
"""Fields that checkpoints of earlier versions lack."""


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
    initial_losses: dict[str, float] = field(default_factory=dict)
    """Losses of the untrained network by task, where the selection is relative to them."""
    train_s: float = 0.0
    """Wall time spent in training steps, in seconds."""
    data_s: float = 0.0
    """The part of it in which a step waited for its examples, in seconds."""
    wall_s: float = 0.0
    """Wall time of earlier processes that trained this run, in seconds."""

    def state_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Args:
            state: The fields. One that an earlier version did not have keeps its value.

        Raises:
            CheckpointError: If a field is missing, unknown or of another type.
        """
        fields = asdict(self)
        complete = {**{name: fields[name] for name in _LATER}, **state}
        types = {name: type(value) for name, value in fields.items()}
        if {name: type(value) for name, value in complete.items()} != types:
            raise CheckpointError(
                "The checkpoint's `state` must hold the fields of this version's; resume the run "
                "with the version that it was trained with."
            )
        for key, value in state.items():
            setattr(self, key, value)

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
        if not selection.is_better(value, self.best_value):
            return False
        self.best_epoch = self.epoch
        self.best_value = value
        self.best_metrics = dict(metrics)
        return True

    def describe_selected(self, selection: Selection) -> str:
        """Return which epoch was selected and what it was compared with.

        Args:
            selection: How epochs were compared.

        Raises:
            SelectionError: If no epoch had a finite value: nothing may be tested.
        """
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
