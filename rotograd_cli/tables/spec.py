"""A table's specification: schema of ``conf/table``, and what it says of a row."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from omegaconf import MISSING

from rotograd_cli.bounds import AtLeastOne
from rotograd_cli.config.labels import file_label
from rotograd_cli.errors import ConfigError, suggest
from rotograd_cli.tables.seeds import to_seeds

Statistic = Annotated[str, Literal["median_std", "mean_std", "mean_ci95"]]
Convention = Annotated[str, Literal["paper", "nash", "famo", "libmtl"]]
Over = Annotated[str, Literal["mean", "median", "max"]]


@dataclass(frozen=True)
class PaperValue:
    """A printed number."""

    value: float
    spread: float | None = None
    mark: str = ""

    def __post_init__(self) -> None:
        """Refuse what a YAML file may have instead of numbers and a text."""
        numbers = [self.value] if self.spread is None else [self.value, self.spread]
        are_numbers = all(type(number) in (int, float) for number in numbers)
        if not are_numbers or not isinstance(self.mark, str):
            raise TypeError


@dataclass
class RowSpec:
    """A row: one setting, trained once per seed."""

    label: str = ""
    """Name in the table; empty: that of the built-in method of ``overrides``, else the key."""
    overrides: list[str] = field(default_factory=list)
    """What this row changes, in the words of the command line: ``[method=rotograd]``."""
    per_task: bool = False
    """One run per task of ``TableSpec.tasks``, with ``tasks=[task]``, makes one seed."""
    shown: bool = False
    """In the table unless ``methods`` names other rows."""
    method_grid: bool = False
    """The method has parameters of its own, so that grid keys of ``method_optimizer`` apply."""


@dataclass
class ColumnSpec:
    """A column: exactly one of ``metric``, ``delta_of``, ``hours`` and ``mean_rank_of``.

    :mod:`rotograd_cli.tables.columns` defines each.
    """

    metric: str | None = None
    """Key of a test metric without the split: ``pixels/mse``, ``mean_f1``."""
    count_within: float | None = None
    """Count the seeds whose ``metric`` is at most this, in the metric's own unit."""
    delta_of: list[str] | None = None
    """Tasks whose relative gains are joined, by the table's convention."""
    over: Over = "mean"
    """How ``delta_of`` joins the gains of a seed: ``mean``, ``median`` or ``max`` over tasks."""
    hours: bool = False
    """Wall time of the training steps of a seed in hours, summed over its runs."""
    mean_rank_of: list[str] | None = None
    """Columns over which a row's rank among the rows is averaged."""
    label: str = ""
    """Head of the column without unit and arrow; empty: the column's key."""
    percent: bool | None = None
    """Show the value times 100; null: as the metric declares."""
    shown: bool = True
    """False: it is there for ``mean_rank_of`` alone."""
    digits: Annotated[int, Ge(0), Le(10)] | None = None
    """Decimals; null: of metrics without a unit 2 to 4 by their size, of all others 2."""

    @property
    def is_over_tasks(self) -> bool:
        """Whether its numbers are of all tasks together: a statistic, the mean of the losses."""
        return self.metric is not None and "/" not in self.metric


@dataclass
class GridSpec:
    """Settings of which every row takes the best on validation."""

    values: dict[str, list[Any]] = field(default_factory=dict)
    """Values by key; keys of ``method_optimizer`` hold for ``method_grid`` rows."""
    seeds: Any = field(default_factory=list)
    """Seeds that every setting is trained with; in a file also their number."""
    search: Annotated[str, Literal["product", "one_by_one"]] = "product"
    """All combinations; or the values of one key after the other, the others being at the best
    that was found, before that at the row's own value."""
    widen: Any = False  # a bool, which OmegaConf would make of any number
    """Try the next value outward where the best is the smallest or largest of a key's numbers."""
    select: str | None = None
    """Metric on validation that chooses among the settings tried; null: each run's own
    ``train.select``, which has also selected its epoch."""

    def __post_init__(self) -> None:
        """Read the seeds.

        Raises:
            ConfigError: If there are some that are none.
        """
        if self.seeds != []:
            self.seeds = to_seeds(self.seeds, "table.grid.seeds")


@dataclass
class PaperSpec:
    """Printed numbers, in the unit of our columns."""

    source: str = MISSING
    """Where they come from."""
    columns: dict[str, str] = field(default_factory=dict)
    """Head of a printed column by our column's key, where ``<label> (paper)`` would not do."""
    digits: int = 2
    """Decimals as printed."""
    column_digits: dict[str, int] = field(default_factory=dict)
    """Decimals by our column's key, where they are others."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By row and column: a number, ``[value, spread]`` or ``[value, spread, mark]``; null: none."""
    notes: list[str] = field(default_factory=list)
    """Sentences below the table, among them what the marks mean."""


@dataclass
class TableSpec:
    """A table; one file of ``conf/table`` each."""

    name: str = MISSING
    """Name of the files that are written; the YAML file's own."""
    title: str = MISSING
    """Title."""
    experiment: str | None = None
    """File of ``conf/experiment``; null: the defaults of ``rotograd train``."""
    overrides: list[str] = field(default_factory=list)
    """What every run changes, e.g. ``[train.epochs=100]``."""
    tasks: list[str] = field(default_factory=list)
    """Tasks of the data set, in order: the runs of a ``per_task`` row."""
    seeds: AtLeastOne = MISSING
    """Number of seeds: 0, 1, ..., seeds - 1."""
    base: str | None = None
    """Row that gains are relative to (conventions ``paper`` and ``famo``)."""
    delta: Convention | None = None
    """Convention of the gains: ``paper``, ``nash``, ``famo``, ``libmtl``; null: no such column."""
    statistic: Statistic = "median_std"
    compare_with: str | None = "vanilla"
    """Row that every other is compared with, seed by seed; null: no comparison."""
    rows: dict[str, RowSpec] = field(default_factory=dict)
    columns: dict[str, ColumnSpec] = field(default_factory=dict)
    grid: GridSpec | None = field(default_factory=GridSpec)
    """Null, or no values: every row with its own defaults."""
    paper: PaperSpec | None = None
    notes: list[str] = field(default_factory=list)
    """Sentences below the table."""

    def label(self, row: str, task: str | None = None) -> str:
        """Return the name of a row in the table, with a task if it is a row of single tasks."""
        label = self.rows[row].label or _label_of(self.rows[row]) or row
        return label if task is None else f"{label} {task}"

    def tasks_of(self, row: str) -> Sequence[str | None]:
        """Return what makes one seed of a row: a run of each of these tasks; None is all tasks."""
        return self.tasks if self.rows[row].per_task else [None]

    def overrides_of(self, row: str) -> list[str]:
        """Return the overrides of a row's runs but for seed, tasks and grid; later ones win.

        They are the experiment, the table's own and the row's.
        """
        experiment = [] if self.experiment is None else [f"experiment={self.experiment}"]
        return [*experiment, *self.overrides, *self.rows[row].overrides]

    def printed(self, row: str, column: str) -> PaperValue | None:
        """Return the number that the paper printed for a cell; None if it printed none."""
        entry = None if self.paper is None else self.paper.rows.get(row, {}).get(column)
        return None if entry is None else _paper_value(entry)

    def select(self, names: Sequence[str] | None) -> "TableSpec":
        """Cut the table to the rows that are needed, in its order.

        Args:
            names: Rows to show, by their key or label; None takes those that the table shows.

        Returns:
            A table with these rows, ``shown``, and the base row where a gain needs it (not
            ``shown`` unless named). Without the row ``compare_with`` among them there is no
            comparison.

        Raises:
            ConfigError: If a name is no row, is repeated, or none is left.
        """
        shown = [n for n, row in self.rows.items() if row.shown]
        if names is not None:
            by_label = {self.label(row): row for row in self.rows}
            shown = [name if name in self.rows else by_label.get(name, name) for name in names]
        _check_names(shown, list(self.rows))
        has_gains = any(column.delta_of is not None for column in self.columns.values())
        needed = {*shown, self.base} if has_gains else set(shown)
        rows = {
            name: dataclasses.replace(row, shown=name in shown)
            for name, row in self.rows.items()
            if name in needed
        }
        compare_with = self.compare_with if self.compare_with in shown else None
        return dataclasses.replace(self, rows=rows, compare_with=compare_with)


def _label_of(row: RowSpec) -> str | None:
    """Label of the built-in method that a row chooses; None where it chooses none."""
    chosen = [word.partition("=")[2] for word in row.overrides if word.startswith("method=")]
    return file_label(chosen[-1]) if chosen else None


def _paper_value(entry: Any) -> PaperValue:
    """Return a printed number from its entry in the YAML file; TypeError if it is none."""
    return PaperValue(*entry) if isinstance(entry, list) else PaperValue(entry)


def _check_names(names: Sequence[str], rows: list[str]) -> None:
    for name in names:
        if name not in rows:
            hint = suggest(name, rows)
            raise ConfigError(f"`methods` must name rows of the table, got {name!r}; {hint}")
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"`methods` must name at least one row, and each row once, got [{', '.join(names)}]."
        )


def unknown(key: str, names: Iterable[str | None], choices: Iterable[str]) -> Iterator[str]:
    """Yield a fault for every name in a key of the table that is not one of its choices."""
    options = list(choices)
    for name in names:
        if name is not None and name not in options:
            yield f"`table.{key}` is not in the table: {name!r}; {suggest(name, options)}"
