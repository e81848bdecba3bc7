"""Progress for a person: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from rotograd_cli.metric_keys import of_split
from rotograd_cli.tracking.pace import Columns, Item, Pace

if TYPE_CHECKING:
    from rotograd_cli.training.train_state import TrainState

logger = logging.getLogger(__name__)

MAX_LOSSES = 10
"""Tasks whose losses fit on a line; of more their sum is shown."""
NUM_NEEDED = 4
"""Columns of a bar that are always there: label, bar, how many are done, remaining time."""


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


class _WholeColumns(Progress):
    """Bars whose last columns are left out where the terminal is too narrow for all of them."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Return the columns that fit, never fewer than the first four."""
        columns = [c if isinstance(c, ProgressColumn) else TextColumn(c) for c in self.columns]
        table = self._table(columns)
        # this is also called while the object is made, without bars and without a console
        while self.tasks and len(columns) > NUM_NEEDED and self._width(table) > self.console.width:
            columns.pop()
            table = self._table(columns)
        yield table

    def _table(self, columns: Sequence[ProgressColumn]) -> Table:
        heads = [column.get_table_column() for column in columns]
        table = Table.grid(*heads, padding=(0, 1))
        for task in self.tasks:
            table.add_row(*(column(task) for column in columns))
        return table

    def _width(self, table: Table) -> int:
        unlimited = self.console.options.update(width=10_000)
        return Measurement.get(self.console, unlimited, table).maximum


def _bars(label: str, *texts: str, is_shown: bool = True) -> Progress:
    """Bars on standard error that are removed at the end; none where it is no terminal.

    Args:
        label: What a bar begins with.
        *texts: What stands behind it, the most important first.
        is_shown: Whether there are bars at all.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    return _WholeColumns(
        label,
        BarColumn(bar_width=20),
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
