"""What a run has learned and counted: all that a checkpoint restores."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rotograd_cli.errors import CheckpointError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.training.checkpoint import load_weights
from rotograd_cli.training.precision import LossScale
from rotograd_cli.training.seeding import rng_state, set_rng_state
from rotograd_cli.training.state import TrainState


@dataclass(frozen=True)
class OptimizerGroup:
    """An optimiser with its schedule."""

    name: str
    """``model`` or ``method``."""
    optimizer: Optimizer
    scheduler: LRScheduler
    interval: str
    """When the schedule advances: ``step`` or ``epoch``."""


class LossWindow:
    """Sums of task losses and their counts since the last record, kept on the device."""

    def __init__(self, num_tasks: int, device: torch.device) -> None:
        self.sums = torch.zeros(2, num_tasks, device=device)

    def add(self, losses: Tensor) -> None:
        """Add losses and their presence, shape ``[2, K]``."""
        self.sums += losses

    def take(self) -> list[float | None]:
        """Return the means, None for a task that had no loss, and start a new window."""
        pairs = zip(*self.sums.tolist(), strict=True)
        self.sums.zero_()
        return [total / num if num else None for total, num in pairs]


class RunState:
    """The model with its method, the optimisers, and what the loop remembers.

    Args:
        model: The network with its method, on the device; joined to its ranks.
        groups: Optimisers with their schedules, the network's first.
    """

    def __init__(self, model: MultiTaskMethod, groups: Sequence[OptimizerGroup]) -> None:
        self.model = model
        self.groups = list(groups)
        self.ranks = model.ranks
        self.device = next(model.parameters()).device
        self.state = TrainState()
        self.window = LossWindow(len(model.heads), self.device)
        self.loss_scale = LossScale() if model.autocast_dtype == torch.float16 else None
        self._began = time.monotonic()
        self._counted_until = self._began

    @property
    def wall_s(self) -> float:
        """Wall time of the run, of earlier processes too, in seconds."""
        return self.state.wall_s + time.monotonic() - self._began

    def begin_epoch(self) -> None:
        """Put the model into training mode and start the clock of the steps."""
        self.model.train()
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

    def _advance(self, interval: str) -> None:
        for group in self.groups:
            if group.interval == interval:
                group.scheduler.step()

    def content(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the run; its tensors are the run's, not copies."""
        return {
            "state": {**self.state.state_dict(), "wall_s": self.wall_s},
            "model": self.model.state_dict(),
            "optimizers": {group.name: group.optimizer.state_dict() for group in self.groups},
            "schedulers": {group.name: group.scheduler.state_dict() for group in self.groups},
            "window": self.window.sums.clone(),
            "loss_scale": None if self.loss_scale is None else self.loss_scale.state_dict(),
            "rng": rng_state(),
        }

    def restore(self, content: dict[str, Any], path: Path) -> None:
        """Go back to the moment in which :meth:`content` was taken.

        Args:
            content: What it returned, as read from a file.
            path: The file, for the message.

        Raises:
            CheckpointError: If it is another run's.
        """
        try:
            self._load(content, path)
        except (CheckpointError, torch.OutOfMemoryError):
            raise
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
        ) as error:
            raise CheckpointError(
                f"{path} is no checkpoint of this run ({type(error).__name__}: {error}); resume "
                "with the version and the configuration that it was trained with."
            ) from error

    def _load(self, content: dict[str, Any], path: Path) -> None:
        self.state.load_state_dict(content["state"])
        load_weights(self.model, content["model"], path)
        for group in self.groups:
            group.optimizer.load_state_dict(content["optimizers"][group.name])
            group.scheduler.load_state_dict(content["schedulers"][group.name])
        self.window.sums.copy_(content["window"])
        if self.loss_scale is not None:
            self.loss_scale.load_state_dict(content["loss_scale"])
        set_rng_state(content["rng"])
        if self.ranks.size > 1 and self.device.type == "cuda":  # the first rank's device was 0
            torch.cuda.set_rng_state(content["rng"]["cuda"][0].cpu(), self.device)
