"""What a column of a table is: what it is made of and what it shows. ``kinds.py`` has the kinds."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rotograd_cli.errors import ConfigError, suggest
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.summary import MetricDisplay
from rotograd_cli.tables.parts import Omission
from rotograd_cli.tables.spec import ColumnSpec, TableSpec

if TYPE_CHECKING:  # both import torch, which checking a table takes no part in
    from rotograd_cli.tables.results import Rows
    from rotograd_cli.tasks.metrics import Better

Values = Mapping[str, Mapping[int, float]]
"""Values of a column by row and seed."""


@dataclass(frozen=True)
class Source:
    """What columns are made of."""

    rows: "Rows"
    metrics: Mapping[MetricKey, MetricDisplay]
    ranked: Callable[[str], tuple["Better | None", Mapping[str, float]]]
    """Direction of another column, and its number for every row that takes part in its ranks."""


@dataclass(frozen=True)
class Content:
    """What a column shows of the rows."""

    unit: str
    """``%``, ``h`` or nothing."""
    better: "Better | None"
    """None: not ranked."""
    values: Values
    """In this unit; NaN where a run has no finite value."""
    centres: Mapping[str, float] | None = None
    """Number by row; None: the table's statistic of its values."""
    omitted: Mapping[str, Sequence[Omission]] = field(default_factory=dict)
    """By row, why seeds have no finite value, where the kind of the column knows."""


def check_measured(key: str, name: str, measured: list[str]) -> None:
    """Refuse a task or metric that the runs do not have.

    Args:
        key: Key of the table that names it.
        name: The task or metric.
        measured: All that the runs have.
    """
    if name not in measured:
        hint = suggest(name, measured)
        raise ConfigError(f"`table.{key}` must be measured by the runs, got {name!r}; {hint}")


class Kind(ABC):
    """A kind of column.

    Args:
        name: Its key in the table.
        table: Table.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset()
    """Keys of a column that this kind takes and others do not."""
    IS_COMPARED: ClassVar[bool] = True
    """Whether rows are compared seed by seed."""
    COUNTS_SEEDS: ClassVar[bool] = False

    def __init__(self, name: str, table: TableSpec) -> None:
        self.name = name
        self.table = table
        self.spec: ColumnSpec = table.columns[name]
        self.label = self.spec.label or name

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the column, whatever the runs have."""
        yield from ()

    @abstractmethod
    def content(self, source: Source) -> Content:
        """Return what it shows.

        Raises:
            ConfigError: If the runs do not have what the column asks for.
        """

    def digits(self, unit: str, largest: float) -> int:
        """Return the decimals of its numbers, of which ``largest`` is the largest."""
        return 2

    def notes(self) -> list[str]:
        """Return what a reader must know of this kind, below the table."""
        return []
