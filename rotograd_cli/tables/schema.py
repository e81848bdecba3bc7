"""Typed schema of ``conf/table``: rows, columns, seeds, statistics, and printed numbers."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rotograd_cli.training.options import AtLeastOne


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
