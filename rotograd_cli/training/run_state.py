"""What a run has learned and counted: all that a checkpoint restores."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from rotograd_cli.errors import CheckpointError, NonFiniteError, SelectionError
from rotograd_cli.linalg.triangle import packed
from rotograd_cli.methods.engine.measurement import Measurement
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.tasks.task import Task
from rotograd_cli.training.averaging import WeightAverage
from rotograd_cli.training.diagnostics import measured_record
from rotograd_cli.training.options import NONFINITE_REMEDY, TrainOptions
from rotograd_cli.training.precision import LossScale
from rotograd_cli.training.schedules import OptimizerGroup
from rotograd_cli.training.seeding import rng_state, set_rng_state
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
        self._planned_norm: float | None = None  # restored, for the rest of the epoch
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
        if self._planned_norm is not None:
            self.model.rotations.planned_norm = self._planned_norm
            self._planned_norm = None
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

    def content(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the run; its tensors are the run's, not copies."""
        average: dict[str, Any] = {}
        if self.average is not None:
            num = self.average.num_updates
            average = {"followed": self.model.state_dict(), "num_averaged": num}
        return {
            "state": {**asdict(self.state), "wall_s": self.wall_s},
            "model": self.evaluated_model.state_dict(),
            **average,
            "optimizers": {group.name: group.optimizer.state_dict() for group in self.groups},
            "schedulers": {group.name: group.scheduler.state_dict() for group in self.groups},
            "planned_norm": self.model.rotations.planned_norm if self.model.rotated else None,
            "window": self.window.clone(),
            "loss_scale": None if self.loss_scale is None else self.loss_scale.state_dict(),
            "rng": rng_state(),
        }

    def restore(self, content: dict[str, Any], path: Path) -> dict[str, int]:
        """Go back to the moment in which :meth:`content` was taken.

        Args:
            content: A checkpoint: what it returned, and ``records``.
            path: The file, for the message.

        Returns:
            How far the record files were written then: bytes by name.

        Raises:
            CheckpointError: If it is another run's.
        """
        if "optimizers" not in content:
            raise CheckpointError(
                f"{path} must be a whole checkpoint, got a selected epoch (best.pt), which has no "
                f"optimisers; put last.pt back, or start a run with init_from={path} init_what=all."
            )
        try:
            self._load(content, path)
            return {str(name): int(size) for name, size in content["records"].items()}
        except (CheckpointError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise CheckpointError(
                f"{path} is no checkpoint of this run ({type(error).__name__}: {error}); resume "
                "with the version and the configuration that it was trained with."
            ) from error

    def _load(self, content: dict[str, Any], path: Path) -> None:
        self.state = TrainState.restored(content["state"])
        load_weights(self.evaluated_model, content["model"], path)
        if self.average is not None:
            load_weights(self.model, content["followed"], path)
            self.average.restore_count(content["num_averaged"])
        for group in self.groups:
            saved = content["optimizers"][group.name]
            if self.model.rotated is not None:
                _pack_moments(saved, group.optimizer, self.model.rotations.free_parameters)
            group.optimizer.load_state_dict(saved)
            group.scheduler.load_state_dict(content["schedulers"][group.name])
        norm = content.get("planned_norm")  # earlier versions saved none
        is_needed = self.state.batch > 0 and self.model.rotated is not None
        self._planned_norm = float(norm) if is_needed and norm is not None else None
        self.window.copy_(content["window"])
        if self.loss_scale is not None:
            self.loss_scale.load_state_dict(content["loss_scale"])
        set_rng_state(content["rng"])
        if self.ranks.size > 1 and self.device.type == "cuda":  # the first rank's device was 0
            torch.cuda.set_rng_state(content["rng"]["cuda"][0].cpu(), self.device)

    def extend(self, before: int, now: int) -> None:
        """Go on with a run that is to have more epochs than when its checkpoint was written.

        Schedules that end with the run are advanced anew, with the new end.

        Args:
            before: Epochs that it was planned for.
            now: Epochs that it is planned for.
        """
        self.state.extended_at.append(self.state.epoch)
        self.state.averaged.clear()  # other epochs are the last ones
        for group in self.groups:
            if group.ends_with_run:
                rates = group.replay(self.state.step)
                self.remarks.append(
                    f"{group.name}_scheduler ended with epoch {before} and now ends with epoch "
                    f"{now}: the learning rate changes from {rates[0]:.3g} to {rates[1]:.3g}, its "
                    f"value at this point of a run of {now} epochs."
                )


def _pack_moments(
    saved: dict[str, Any], optimizer: torch.optim.Optimizer, rotations: torch.nn.Parameter
) -> None:
    """Pack what earlier versions saved of rotations as whole matrices in an optimiser's state."""
    numbers = (number for group in saved["param_groups"] for number in group["params"])
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    for number, parameter in zip(numbers, parameters, strict=False):
        if parameter is rotations and number in saved["state"]:
            state = saved["state"][number]
            state |= {k: packed(x) for k, x in state.items() if isinstance(x, torch.Tensor)}


def load_weights(model: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load a model's state, all of it.

    Args:
        model: The model.
        state: Its ``state_dict``.
        path: Where the state came from, for the message.

    Raises:
        CheckpointError: If names or shapes differ: the checkpoint is another model's.
    """
    try:
        model.load_state_dict(state)
    except Exception as error:
        details = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} is the checkpoint of another model than its config.yaml describes "
            f"({details[:200]}); evaluate the run with the configuration it was trained with."
        ) from error
