"""A table's specification: schema of ``conf/table``, checks, and what it says of a cell."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from omegaconf import MISSING

from rotograd_cli.bounds import AtLeastOne
from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.config import suggest
from rotograd_cli.tables.statistics import DESCRIPTIONS

CONVENTIONS = ("paper", "nash", "libmtl")


@dataclass
class RowSpec:
    """A row: one setting, trained once per seed."""

    label: str = ""
    """Name in the table; empty: the row's key."""
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
    """A column: exactly one of ``metric``, ``delta_of`` and ``hours``."""

    metric: str | None = None
    """Key of a test metric without the split: ``pixels/mse``, ``mean_f1``."""
    delta_of: list[str] | None = None
    """Tasks whose relative gain is averaged, by the table's convention."""
    hours: bool = False
    """Wall time of the training steps of a seed in hours, summed over its runs."""
    label: str = ""
    """Head of the column without unit and arrow; empty: the column's key."""
    better: str | None = None
    """``higher`` or ``lower``; null: the metric's own."""
    percent: bool | None = None
    """Show the value times 100; null: as the metric declares."""
    digits: int | None = None
    """Decimals; null: 2 of percentages, gains and hours, of others 2 to 4 by their size."""


@dataclass
class GridSpec:
    """Settings of which every row takes the best on validation, by its own ``train.select``."""

    values: dict[str, list[float]] = field(default_factory=dict)
    """Values by key, all combinations; ``method_optimizer`` keys hold for ``method_grid`` rows."""
    seeds: list[int] = field(default_factory=list)
    """Seeds that every combination is trained with."""


@dataclass
class PaperSpec:
    """Printed numbers, in the unit of our columns."""

    source: str = MISSING
    """Where they come from."""
    columns: dict[str, str] = field(default_factory=dict)
    """Head of a printed column by our column's key, where ``<label> (paper)`` would not do."""
    digits: int = 2
    """Decimals as printed."""
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
    """Row that gains are relative to (convention ``paper``)."""
    delta: str | None = None
    """Convention of the gains: ``paper``, ``nash``, ``libmtl``; null: no such column."""
    statistic: str = "median_std"
    """``median_std``, ``mean_std`` or ``mean_ci95``."""
    compare_with: str | None = "vanilla"
    """Row that every other is compared with, seed by seed; null: no comparison."""
    rows: dict[str, RowSpec] = field(default_factory=dict)
    columns: dict[str, ColumnSpec] = field(default_factory=dict)
    grid: GridSpec | None = None
    paper: PaperSpec | None = None
    notes: list[str] = field(default_factory=list)
    """Sentences below the table."""


@dataclass(frozen=True)
class PaperValue:
    """A printed number."""

    value: float
    spread: float | None = None
    mark: str = ""


def select_rows(spec: TableSpec, names: Sequence[str] | None) -> TableSpec:
    """Cut a table to the rows that are needed, in its order.

    Args:
        spec: Table.
        names: Rows to show; None takes those that the table shows.

    Returns:
        A table with these rows, ``shown``, and the base row where a gain needs it (not ``shown``
        unless named). Without the row ``compare_with`` among them there is no comparison.

    Raises:
        ConfigError: If a name is no row, is repeated, or none is left.
    """
    shown = [name for name, row in spec.rows.items() if row.shown] if names is None else list(names)
    _check_names(spec, shown)
    needs_base = any(column.delta_of is not None for column in spec.columns.values())
    needed = {*shown, *([spec.base] if needs_base and spec.base is not None else [])}
    rows = {
        name: dataclasses.replace(row, shown=name in shown)
        for name, row in spec.rows.items()
        if name in needed
    }
    compare_with = spec.compare_with if spec.compare_with in shown else None
    return dataclasses.replace(spec, rows=rows, compare_with=compare_with)


def _check_names(spec: TableSpec, names: Sequence[str]) -> None:
    for name in names:
        if name not in spec.rows:
            hint = suggest(name, list(spec.rows))
            raise ConfigError(f"`methods` must name rows of the table, got {name!r}; {hint}")
    if len(set(names)) < len(names):
        raise ConfigError(f"`methods` must name each row once, got [{', '.join(names)}].")
    if not names:
        raise ConfigError("`methods` must name at least one row of the table, got [].")


def row_overrides(spec: TableSpec, row: str) -> list[str]:
    """Return the overrides of a row's runs but for seed, tasks and grid; later ones win.

    They are the experiment, the table's own and the row's.
    """
    experiment = [] if spec.experiment is None else [f"experiment={spec.experiment}"]
    return [*experiment, *spec.overrides, *spec.rows[row].overrides]


def row_label(spec: TableSpec, row: str) -> str:
    """Return the name of a row in the table."""
    return spec.rows[row].label or row


def paper_value(spec: TableSpec, row: str, column: str) -> PaperValue | None:
    """Return the number that the paper printed for a cell; None if it printed none."""
    printed = None if spec.paper is None else spec.paper.rows.get(row, {}).get(column)
    if printed is None:
        return None
    if not isinstance(printed, list):
        return PaperValue(float(printed))
    value, spread, mark = (*printed, None, None)[:3]
    return PaperValue(float(value), None if spread is None else float(spread), mark or "")


def check_spec(spec: TableSpec | None, statistic: str | None = None) -> None:
    """Refuse a table that refers to what it does not have.

    Args:
        spec: Table; None for none.
        statistic: What a command takes in place of the table's own statistic; None for that.
    """
    if statistic is not None:
        _refuse(_not_one_of("statistic", statistic, DESCRIPTIONS))
    if spec is not None:
        _refuse(_faults(spec))


def _refuse(faults: Iterator[str]) -> None:
    for fault in faults:
        raise ConfigError(fault)


def _faults(spec: TableSpec) -> Iterator[str]:
    """The faults of a table that its types do not exclude; later ones presume earlier ones."""
    if not re.fullmatch(r"[\w.-]+", spec.name):
        yield f"`table.name` must be a word (it names files), got {spec.name!r}."
    yield from _not_one_of("table.statistic", spec.statistic, DESCRIPTIONS)
    if spec.delta is not None:
        yield from _not_one_of("table.delta", spec.delta, CONVENTIONS)
    for key, entries in (("rows", spec.rows), ("columns", spec.columns)):
        if not entries:
            yield f"`table.{key}` must have at least one entry, got none."
    for key, row in (("base", spec.base), ("compare_with", spec.compare_with)):
        if row is not None:
            yield from _not_in_table(f"table.{key}", row, spec.rows)
    yield from _faults_of_rows(spec)
    for name, column in spec.columns.items():
        yield from _faults_of_column(spec, f"table.columns.{name}", column)
    if spec.grid is not None:
        yield from _faults_of_grid(spec.grid)
    if spec.paper is not None:
        yield from _faults_of_paper(spec, spec.paper)


def _not_one_of(key: str, value: str, choices: Iterable[str]) -> Iterator[str]:
    options = list(choices)
    if value not in options:
        hint = suggest(value, options)
        yield f"`{key}` must be one of {', '.join(options)}, got {value!r}; {hint}"


def _not_in_table(key: str, name: str, names: Iterable[str]) -> Iterator[str]:
    if name not in names:
        yield f"`{key}` is not in the table: {name!r}; {suggest(name, list(names))}"


def _faults_of_rows(spec: TableSpec) -> Iterator[str]:
    for name, row in spec.rows.items():
        if row.per_task and not spec.tasks:
            yield f"`table.tasks` must name the tasks that per_task row {name!r} trains, got []."
        for word in row.overrides:
            if "=" not in word:
                yield f"`table.rows.{name}.overrides` must hold KEY=VALUE words, got {word!r}."


def _faults_of_column(spec: TableSpec, key: str, column: ColumnSpec) -> Iterator[str]:
    kinds = (column.metric is not None, column.delta_of is not None, column.hours)
    if sum(kinds) != 1:
        yield f"`{key}` must have exactly one of metric, delta_of and hours, got {sum(kinds)}."
    if column.better is not None:
        yield from _not_one_of(f"{key}.better", column.better, ("higher", "lower"))
    if column.digits is not None and not 0 <= column.digits <= 10:
        yield f"`{key}.digits` must be in 0..10, got {column.digits}."
    if column.delta_of is not None:
        yield from _faults_of_gain(spec, key, column.delta_of)


def _faults_of_gain(spec: TableSpec, key: str, tasks: list[str]) -> Iterator[str]:
    if spec.delta is None:
        yield f"`table.delta` must name a convention, as `{key}` is a gain; got null."
    if spec.delta == "paper" and spec.base is None:
        yield f"`table.base` must name a row, as `{key}` is relative to it; got null."
    if not tasks:
        yield f"`{key}.delta_of` must name at least one task, got []."
    if spec.delta == "nash" and sorted(tasks) != ["depth", "normals", "segmentation"]:
        yield (
            f"`{key}.delta_of` must be [segmentation, depth, normals], as the convention nash "
            f"averages all their metrics, got {tasks}."
        )
    for task in tasks if spec.tasks else []:
        yield from _not_one_of(f"{key}.delta_of", task, spec.tasks)


def _faults_of_grid(grid: GridSpec) -> Iterator[str]:
    for name, entries in (("values", grid.values), ("seeds", grid.seeds)):
        if not entries:
            yield f"`table.grid.{name}` must not be empty; table.grid=null for none."
    for name, values in grid.values.items():
        if not values:
            yield f"`table.grid.values.{name}` must list values, got []."


def _faults_of_paper(spec: TableSpec, paper: PaperSpec) -> Iterator[str]:
    for column in paper.columns:
        yield from _not_in_table("table.paper.columns", column, spec.columns)
    for row, cells in paper.rows.items():
        yield from _not_in_table("table.paper.rows", row, spec.rows)
        for column, printed in cells.items():
            key = f"table.paper.rows.{row}"
            yield from _not_in_table(key, column, spec.columns)
            if not _is_printed(printed):
                yield (
                    f"`{key}.{column}` must be a number, [value, spread] or "
                    f"[value, spread, mark], got {printed!r}."
                )


def _is_printed(printed: object) -> bool:
    """Whether :func:`paper_value` can read it."""
    if printed is None:
        return True
    entries = printed if isinstance(printed, list) else [printed]
    kinds = ((int, float), (int, float, NoneType), (str, NoneType))
    return 1 <= len(entries) <= 3 and all(
        isinstance(entry, kind) and not isinstance(entry, bool)
        for entry, kind in zip(entries, kinds, strict=False)
    )
