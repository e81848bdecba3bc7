"""What a run records while it trains."""

import math
from collections.abc import Sequence
from typing import Protocol

from rotograd_cli.errors import NonFiniteError
from rotograd_cli.ranks.base import Ranks
from rotograd_cli.tasks.task import Task
from rotograd_cli.training import interrupts
from rotograd_cli.training.options import NONFINITE_REMEDY
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.state import TrainState


class Recorder(Protocol):
    """Where the loop sends its records."""

    def log(self, record: dict[str, float]) -> None:
        """Take one record: ``step``, ``epoch`` and values by ``split/task/metric``."""

    def position(self) -> dict[str, int]:
        """Return how far the record files are written: bytes by name, on disk by now."""

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        """Show progress after a step, without values: nothing here may wait for the device."""


def stop_if_requested(ranks: Ranks) -> None:
    """Raise where the run is to stop: on all ranks after the same step.

    Args:
        ranks: The processes; a step tells each of them of the signals of all.
    """
    if ranks.size == 1:
        interrupts.check()
    if ranks.signal_of_all:
        raise interrupts.StopRequested(ranks.signal_of_all)
    ranks.signal = interrupts.requested()


def training_record(run: RunState, tasks: Sequence[Task]) -> dict[str, float]:
    """Return means since the last record; the only place of the loop that waits for the device.

    Args:
        run: The run, after a step.
        tasks: Its K tasks.

    Returns:
        Losses, the method's diagnostics and learning rates.

    Raises:
        NonFiniteError: If a loss is infinite or NaN.
    """
    run.model.refresh()
    names = [task.name for task in tasks]
    means = zip(names, run.window.take(), strict=True)
    losses = {name: mean for name, mean in means if mean is not None}
    for name, loss in losses.items():
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"The loss of task {name!r} became {loss} before step {run.state.step}; "
                f"{NONFINITE_REMEDY}."
            )
    record: dict[str, float] = {"step": run.state.step, "epoch": run.state.epoch + 1}
    record |= {f"train/{name}/loss": loss for name, loss in losses.items()}
    record["train/loss"] = sum(losses.values())
    for key, values in run.model.diagnostics().items():
        pairs = zip(names, values.tolist(), strict=True)
        record |= {f"train/{name}/{key}": value for name, value in pairs}
    for group in run.groups:
        record[f"train/{group.name}_lr"] = group.optimizer.param_groups[0]["lr"]
    return record
