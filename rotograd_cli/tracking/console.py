"""Progress for a person: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from rotograd_cli.metric_keys import of_split
from rotograd_cli.tracking.pace import Columns, Item, Pace

if TYPE_CHECKING:
    from rotograd_cli.training.run_state import TrainState

logger = logging.getLogger(__name__)

MAX_LOSSES = 10
"""Tasks whose losses fit on a line; of more their sum is shown."""


@dataclass(frozen=True)
class Screen:
    """What a run shows on standard error."""

    label: str = ""
    """What every line begins with: ``cell 3: `` in a sweep."""
    has_bar: bool = True
    """Whether a terminal gets a bar; those of runs side by side would overwrite each other."""


class ConsoleTracker:
    """Print a line per evaluation to standard error and, on a terminal, a bar with rate and losses.

    Args:
        num_epochs: Epochs of the run.
        select: Key that the epoch is selected by.
        pace: The pace of the run, from the step that it goes on from.
        screen: What is shown.
    """

    def __init__(self, num_epochs: int, select: str, pace: Pace, screen: Screen) -> None:
        self._num_epochs = num_epochs
        self._select = select
        self._pace = pace
        self._screen = screen
        self._columns = Columns()
        self._losses = ""
        self._learning_rate = "-"
        rate = "{task.fields[rate]}"
        epoch = f"{screen.label}epoch {{task.fields[epoch]}}"
        losses = "{task.fields[losses]}"
        self._progress = _bars(epoch, rate, losses, is_shown=screen.has_bar)
        self._bar = self._progress.add_task("", epoch="", rate="", losses="")
        self._progress.start()

    def log(self, record: Mapping[str, float]) -> None:
        """Print evaluations; keep training losses for the bar."""
        if "val/loss" in record:
            self._print(self._epoch_line(record))
        elif "train/loss" in record:
            self._losses = f"loss {_text(_losses(record, 'train'))}"
            self._learning_rate = f"{record['train/lr']:.1e}"
        elif "test/loss" in record:
            losses = _text(_losses(record, "test"))
            self._print(f"test of epoch {int(record['epoch'])}  loss {losses}")

    def _epoch_line(self, record: Mapping[str, float]) -> str:
        total = str(self._num_epochs)
        epoch = f"{int(record['epoch']):>{len(total)}}/{total}"
        seconds, rate, end = self._pace.advance(int(record["step"]), record["seconds"])
        (first, value), *others = _losses(record, "val")
        groups = [
            [("epoch", epoch)],
            [(self._select, f"{record[self._select]:.4f}")],
            [("", seconds)],
            [("", rate)],
            [("lr", self._learning_rate)],
            [("ends", end)],
            [(f"val loss {first}".rstrip(), value), *others],
        ]
        return self._columns.line(groups)

    def progress(self, state: "TrainState", num_batches: int, batch_index: int) -> None:
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
        self._progress.console.print(f"{self._screen.label}{line}")


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


def _bars(label: str, *texts: str, is_shown: bool = True) -> Progress:
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
        disable=not (is_shown and console.is_terminal),
    )


def _losses(record: Mapping[str, float], split: str) -> list[Item]:
    """Return the losses by task; of many tasks their sum, without a name."""
    losses = {key: value for key, value in of_split(record, split).items() if key.name == "loss"}
    values = {key.task: value for key, value in losses.items() if key.task is not None}
    if len(values) > MAX_LOSSES:
        return [("", f"{record[f'{split}/loss']:.4f} (sum of {len(values)} tasks)")]
    return [(task, f"{value:.4f}") for task, value in values.items()]


def _text(items: Sequence[Item]) -> str:
    return " ".join(" ".join(filter(None, item)) for item in items)
