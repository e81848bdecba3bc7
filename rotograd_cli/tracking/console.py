"""Progress for a person: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rotograd_cli.training.state import TrainState

logger = logging.getLogger(__name__)


class ConsoleTracker:
    """One line per evaluation, and on a terminal a bar with rate and losses, on standard error.

    Args:
        num_epochs: Epochs of the run.
        select: Key that the epoch is selected by.
    """

    def __init__(self, *, num_epochs: int, select: str) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._num_epochs, self._select = num_epochs, select
        self._progress: Progress | None = None
        self._losses = ""
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[losses]}"),
                console=self._console,
                transient=True,
            )
            self._bar = self._progress.add_task("", epoch="", rate="", losses="")
            self._progress.start()

    def log(self, record: Mapping[str, float]) -> None:
        """Prints evaluations; keeps training losses for the bar."""
        epoch, num = int(record["epoch"]), self._num_epochs
        if "val/loss" in record:
            self._print(f"epoch {epoch}/{num}  {_short(record, 'val', self._select)}")
        elif "train/loss" in record:
            self._losses = _losses(record, "train")
        elif "test/loss" in record:
            self._print(f"test of epoch {epoch}  {_losses(record, 'test')}")

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        """Moves the bar."""
        if self._progress is not None:
            speed = self._progress.tasks[self._bar].speed
            self._progress.update(
                self._bar,
                total=num_batches,
                completed=batch_index + 1,
                epoch=f"{state.epoch + 1}/{self._num_epochs}",
                rate=f"{speed:.1f} steps/s" if speed else "",
                losses=self._losses,
            )

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Removes the bar."""
        del summary
        if self._progress is not None:
            self._progress.stop()

    def _print(self, line: str) -> None:
        logger.debug(line)  # for train.log
        if self._progress is not None:
            self._progress.console.print(line)
        else:
            print(line, file=sys.stderr, flush=True)


def _losses(record: Mapping[str, float], split: str) -> str:
    values = {
        key.split("/")[1]: value
        for key, value in record.items()
        if key.startswith(f"{split}/") and key.endswith("/loss") and key.count("/") == 2
    }
    return "loss " + " ".join(f"{task} {value:.4f}" for task, value in values.items())


def _short(record: Mapping[str, float], split: str, select: str) -> str:
    return f"{select} {record[select]:.4f}  {split} {_losses(record, split)}"
