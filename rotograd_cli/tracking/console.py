"""Progress for a person: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from rotograd_cli.metric_keys import of_split
from rotograd_cli.training.run_state import TrainState

logger = logging.getLogger(__name__)

MAX_LOSSES = 10
"""Tasks whose losses fit on a line; of more their sum is shown."""


class ConsoleTracker:
    """Print a line per evaluation to standard error and, on a terminal, a bar with rate and losses.

    Args:
        num_epochs: Epochs of the run.
        select: Key that the epoch is selected by.
    """

    def __init__(self, num_epochs: int, select: str) -> None:
        self._num_epochs = num_epochs
        self._select = select
        self._losses = ""
        rate = "{task.fields[rate]}"
        self._progress = _bars("epoch {task.fields[epoch]}", rate, "{task.fields[losses]}")
        self._bar = self._progress.add_task("", epoch="", rate="", losses="")
        self._progress.start()

    def log(self, record: Mapping[str, float]) -> None:
        """Print evaluations; keep training losses for the bar."""
        epoch = int(record["epoch"])
        if "val/loss" in record:
            selected = f"{self._select} {record[self._select]:.4f}"
            losses = _losses(record, "val")
            self._print(f"epoch {epoch}/{self._num_epochs}  {selected}  val {losses}")
        elif "train/loss" in record:
            self._losses = _losses(record, "train")
        elif "test/loss" in record:
            self._print(f"test of epoch {epoch}  {_losses(record, 'test')}")

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        """Move the bar."""
        if not self._progress.disable:
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
        """Remove the bar."""
        self._progress.stop()

    def _print(self, line: str) -> None:
        logger.debug(line)  # for train.log
        self._progress.console.print(line)


class ProgressBars:
    """A bar per piece of work on a terminal, a line per tenth of it elsewhere."""

    def __init__(self) -> None:
        self.bars = _bars("{task.description}")
        self._tasks: dict[str, Any] = {}
        self._tenths: dict[str, int] = {}

    def say(self, line: str) -> None:
        """Print a line to standard output."""
        print(line, flush=True)

    def update(self, what: str, done: int, total: int) -> None:
        """Show how much of a piece of work is done."""
        if self.bars.disable:
            tenth = 10 * done // max(total, 1)
            if tenth > self._tenths.get(what, 0):
                print(f"{what} {done} of {total}", file=sys.stderr, flush=True)
            self._tenths[what] = tenth
            return
        if what not in self._tasks:
            self._tasks[what] = self.bars.add_task(what)
        self.bars.update(self._tasks[what], completed=done, total=total)


@contextmanager
def progress_bars() -> Iterator[ProgressBars]:
    """Show bars that are removed at the end."""
    bars = ProgressBars()
    with bars.bars:
        yield bars


def _bars(label: str, *texts: str) -> Progress:
    """Bars on standard error that are removed at the end; none where it is no terminal."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    return Progress(
        label,
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *texts,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _losses(record: Mapping[str, float], split: str) -> str:
    losses = {key: value for key, value in of_split(record, split).items() if key.name == "loss"}
    values = {key.task: value for key, value in losses.items() if key.task is not None}
    if len(values) > MAX_LOSSES:
        return f"loss {record[f'{split}/loss']:.4f} (sum of {len(values)} tasks)"
    return "loss " + " ".join(f"{task} {value:.4f}" for task, value in values.items())
