"""The parts of a built table: plain numbers and texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rotograd_cli.tables.spec import PaperValue

if TYPE_CHECKING:  # they import NumPy and torch, which a plan has no use for
    from rotograd_cli.tables.statistics import Difference
    from rotograd_cli.tasks.metrics import Better


@dataclass(frozen=True)
class Column:
    """A column. All its numbers, the printed ones too, have its unit."""

    name: str
    label: str
    unit: str
    """``%``, ``h`` or nothing (the metric's own)."""
    better: "Better | None"
    digits: int
    paper_label: str | None
    """Head of the column of printed numbers; None if the paper has none."""
    paper_digits: int = 2
    counts_seeds: bool = False
    """Whether a value is 1 or 0 and the centre the number of ones, shown as ``29 / 30``."""


@dataclass(frozen=True)
class Omission:
    """A value that a cell leaves out."""

    reason: str
    """A constant of ``omissions.py``."""
    row: str
    """Key of the row that it is due to; of a gain it may be the base."""
    what: str
    """What of that row: ``parity f1``; empty: all of it."""
    seed: int


@dataclass(frozen=True)
class Cell:
    """A row in a column."""

    values: dict[int, float] = field(default_factory=dict)
    """Finite value by seed."""
    centre: float | None = None
    spread: float | None = None
    rank: int | None = None
    """1 best, 2 second best, among the rows with all seeds."""
    paper: PaperValue | None = None
    difference: "Difference | None" = None
    """Comparison with the row ``Table.compare_with``."""
    note: str | None = None
    """Where fewer seeds count than the row has: ``2 of 3 seeds``."""
    omitted: Sequence[Omission] = ()
    """Why the other seeds of the row do not count."""


@dataclass(frozen=True)
class Row:
    """A row."""

    name: str
    label: str
    cells: dict[str, Cell]
    """By column."""
    num_seeds: int
    """Seeds with a result."""
    missing: dict[int, str]
    """Why the others have none."""
    ranked: bool
    """Whether it takes part in the ranks: with all seeds, and not the base of the gains."""


class Detail(str):
    """A footnote that a terminal shows with ``--verbose`` alone.

    It is the record of how numbers were made. What a reader must know lest a number misleads, every
    warning above all, is never one.
    """

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """A table."""

    name: str
    title: str
    statistic: str
    seeds: list[int]
    """Seeds that every row should have."""
    compare_with: str | None
    """Label of the row that others are compared with; None without a comparison."""
    columns: list[Column]
    rows: list[Row]
    footnotes: list[str]
    """All of them, :class:`Detail` among them."""

    @property
    def main_footnotes(self) -> list[str]:
        """What every reader of the numbers is told."""
        return [note for note in self.footnotes if not isinstance(note, Detail)]

    @property
    def details(self) -> list[str]:
        """The other footnotes."""
        return [note for note in self.footnotes if isinstance(note, Detail)]


@dataclass(frozen=True)
class Trial:
    """A setting that was tried for a row."""

    label: str
    """Of the row; of one that is trained task by task with the task."""
    point: Mapping[str, float]
    """Value by key."""
    validation: float
    """Mean over seeds; NaN where a run failed or is not there."""
    is_chosen: bool
    cells: Mapping[str, Cell]
    """Test results at this setting by column."""


@dataclass(frozen=True)
class Tried:
    """What was tried for the rows of a table."""

    title: str
    trials: Sequence[Trial]
    metric: str
    """Validation metric that chooses."""
    better: "Better"
    seeds: Sequence[int]
    """Seeds that every setting was tried with."""
    columns: Sequence[Column]
    """Those of the cells."""
    notes: Sequence[str]
