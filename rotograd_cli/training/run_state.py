"""A run in training: the model, its optimisers, the clocks, and what is recorded of steps."""

import math
import time
from collections.abc import Sequence

import torch

from rotograd_cli.errors import NonFiniteError
from rotograd_cli.methods.engine.measurement import Measurement
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.tasks.task import Task
from rotograd_cli.training.averaging import WeightAverage
from rotograd_cli.training.diagnostics import measured_record
from rotograd_cli.training.options import NONFINITE_REMEDY
from rotograd_cli.training.precision import LossScale
from rotograd_cli.training.schedules import OptimizerGroup
from rotograd_cli.training.train_state import TrainState


class RunState:
    """The model with its method, the optimisers, and what the loop remembers.

    Args:
        model: The network with its method, on the device; joined to its ranks.
        groups: Optimisers with their schedules, the network's first.
        average: Follows the weights of the model; None for none.
    """

    def __init__(
        self,
        model: MultiTaskMethod,
        groups: Sequence[OptimizerGroup],
        average: WeightAverage | None = None,
    ) -> None:
        self.model = model
        self.average = average
        self.groups = list(groups)
        self.ranks = model.ranks
        self.device = next(model.parameters()).device
        self.state = TrainState()
        self.origin: list[str] = []
        """What the weights before the first step were loaded from, in words."""
        self.window = torch.zeros(2, len(model.heads), device=self.device)
        """Sums of task losses and their counts since the last record."""
        self.remarks: list[str] = []
        """What the user should know of how the run goes on."""
        self.loss_scale = LossScale() if model.autocast_dtype == torch.float16 else None
        self.planned_norm: float | None = None
        """What rotations are to be planned for in the rest of an epoch, if it was resumed."""
        self._began = time.monotonic()
        self._counted_until = self._began

    @property
    def evaluated_model(self) -> MultiTaskMethod:
        """What is evaluated, selected and saved for use: with averaged weights, if there are."""
        return self.model if self.average is None else self.average.model

    @property
    def wall_s(self) -> float:
        """Wall time of the run, of earlier processes too, in seconds."""
        return self.state.wall_s + time.monotonic() - self._began

    def begin_epoch(self) -> None:
        """Put the model into training mode and start the clock of the steps."""
        self.model.train()
        if self.planned_norm is not None:
            self.model.rotations.planned_norm = self.planned_norm
            self.planned_norm = None
        self._counted_until = time.monotonic()

    def count_time(self, waited_s: float) -> None:
        """Add the time since the last call to that of the steps.

        Args:
            waited_s: The part of it, in seconds, in which steps waited for examples.
        """
        now = time.monotonic()
        self.state.train_s += now - self._counted_until
        self.state.data_s += waited_s
        self._counted_until = now

    def end_step(self) -> None:
        """Count a step and advance the schedules that go by steps."""
        self.state.step += 1
        self.state.batch += 1
        self._advance("step")

    def end_epoch(self) -> None:
        """Count an epoch, tell the method, and advance the schedules that go by epochs."""
        self.model.end_epoch()
        self._advance("epoch")
        self.state.epoch += 1
        self.state.batch = 0
        self.state.evaluation_due = True

    def end_evaluation(self, value: float) -> None:
        """Advance the schedules that go by evaluations.

        Args:
            value: The selection value.
        """
        self._advance("evaluation", value)

    def _advance(self, interval: str, *value: float) -> None:
        for group in self.groups:
            group.advance(interval, self.state.step, *value)

    def record(
        self, tasks: Sequence[Task], measurement: Measurement | None = None
    ) -> dict[str, float]:
        """Return means since the last record; the only place of the loop that waits for the device.

        Args:
            tasks: The K tasks.
            measurement: What was measured of the step.

        Returns:
            Losses, what was measured, the method's own diagnostics, learning rates, and the seconds
            of training so far.

        Raises:
            NonFiniteError: If a loss is infinite or NaN.
        """
        self.model.refresh()
        names = [task.name for task in tasks]
        sums = zip(names, *self.window.tolist(), strict=True)
        losses = {name: total / num for name, total, num in sums if num}
        self.window.zero_()
        for name, loss in losses.items():
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"The loss of task {name!r} became {loss} before step {self.state.step}; "
                    f"{NONFINITE_REMEDY}."
                )
        record: dict[str, float] = {"step": self.state.step, "epoch": self.state.epoch + 1}
        record |= {f"train/{name}/loss": loss for name, loss in losses.items()}
        record["train/loss"] = sum(losses.values())
        if measurement is not None:
            record |= measured_record(measurement, names)
        for key, values in self.model.diagnostics().items():
            pairs = zip(names, values.tolist(), strict=True)
            record |= {f"train/{name}/{key}": value for name, value in pairs}
        for group in self.groups:
            record |= group.learning_rates()
        self.count_time(0.0)  # the device has just been waited for
        return record | self.clock()

    def clock(self) -> dict[str, float]:
        """Return the wall time spent in training steps so far, as every record has it."""
        return {"seconds": round(self.state.train_s, 3)}
