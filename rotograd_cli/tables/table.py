"""A table as numbers: cells with the values of every seed, their statistics, and comparisons."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.config import suggest
from rotograd_cli.runs.summary import MetricDisplay
from rotograd_cli.tables.delta import BETTER, gains
from rotograd_cli.tables.footnotes import footnotes
from rotograd_cli.tables.parts import Cell, Column, Row, Table
from rotograd_cli.tables.results import Results, SeedResult, metric_specs
from rotograd_cli.tables.runs import COMMON, TASKS, alike
from rotograd_cli.tables.spec import TableSpec
from rotograd_cli.tables.statistics import compare, holm, ranks, summarise
from rotograd_cli.tasks.metrics import Better

Cells = dict[str, Cell]
"""Cells of a column by row."""


def build_table(
    spec: TableSpec, results: Results, *, statistic: str | None = None, notes: Sequence[str] = ()
) -> Table:
    """Compute a table.

    Args:
        spec: Table, cut to the wanted rows by :func:`~rotograd_cli.tables.spec.select_rows`.
        results: Its results (:func:`~rotograd_cli.tables.results.collect`).
        statistic: ``median_std``, ``mean_std`` or ``mean_ci95``; None takes the table's.
        notes: More sentences below the table.

    Returns:
        The table. Rows without a single result and without printed numbers stay in it, empty.

    Raises:
        ConfigError: If a column asks for what the runs do not have.
    """
    statistic = statistic or spec.statistic
    builder = _Builder(spec, results, statistic)
    built = {name: builder.column(name) for name in spec.columns}
    rows = [
        Row(
            name,
            spec.label(name),
            {column: cells[name] for column, (_, cells) in built.items()},
            len(results.rows[name]),
            results.missing[name],
            builder.is_ranked(name),
        )
        for name, row in spec.rows.items()
        if row.shown
    ]
    is_compared = any(cell.difference for row in rows for cell in row.cells.values())
    reference = spec.label(spec.compare_with or "") if is_compared else None
    columns = [column for column, _ in built.values()]
    table = Table(spec.name, spec.title, statistic, results.seeds, reference, columns, rows, [])
    return dataclasses.replace(table, footnotes=footnotes(spec, results, table, notes))


class _Builder:
    """Computes the cells of one column after the other.

    Args:
        spec: Table.
        results: Its results.
        statistic: Statistic over seeds.
    """

    def __init__(self, spec: TableSpec, results: Results, statistic: str) -> None:
        self._spec = spec
        self._results = results
        self._statistic = statistic
        self._metrics = metric_specs(results.runs)

    def column(self, name: str) -> tuple[Column, Cells]:
        """Return a column and its cells, ranked and compared."""
        spec = self._spec.columns[name]
        paper = self._spec.paper
        unit, better = self._unit_and_direction(name)
        values = self._values(name, unit)
        cells = {row: self._cell(name, row, values.get(row, {})) for row in self._spec.rows}
        label = spec.label or name
        paper_label = None
        if paper is not None and any(cell.paper is not None for cell in cells.values()):
            paper_label = paper.columns.get(name, f"{label} (paper)")
        digits = _digits(unit, cells) if spec.digits is None else spec.digits
        paper_digits = paper.digits if paper else 2
        column = Column(name, label, unit, better, digits, paper_label, paper_digits)
        return column, self._compared(name, self._ranked(name, better, cells))

    def is_ranked(self, row: str) -> bool:
        """Return whether a row takes part in the ranks."""
        spec = self._spec.rows[row]
        is_base = spec.per_task or row == self._spec.base
        return spec.shown and not is_base and not self._results.missing[row]

    def _unit_and_direction(self, name: str) -> tuple[str, Better | None]:
        column = self._spec.columns[name]
        better: Any = column.better
        if column.hours:  # not ranked by itself: it depends on what else the machine did
            return "h", better
        if column.delta_of is not None:
            return "%", better or BETTER[str(self._spec.delta)]
        metric = MetricKey.parse(str(column.metric))
        if metric not in self._metrics and len(self._metrics) > 1:
            hint = suggest(str(metric), list(map(str, self._metrics)))
            raise ConfigError(
                f"`table.columns.{name}.metric` must be a metric of the runs, got "
                f"{str(metric)!r}; {hint}"
            )
        declared = self._metrics.get(metric, MetricDisplay(None, False))
        percent = declared.percent if column.percent is None else column.percent
        return "%" if percent else "", better or declared.better

    def _values(self, name: str, unit: str) -> Mapping[str, Mapping[int, float]]:
        """Value by row and seed in the column's unit."""
        column = self._spec.columns[name]
        rows = self._results.rows
        if column.delta_of is not None:
            return gains(str(self._spec.delta), column.delta_of, rows, self._spec.base)
        if column.hours:
            return {
                row: {seed: _hours(result) for seed, result in seeds.items()}
                for row, seeds in rows.items()
            }
        key = MetricKey.parse(str(column.metric))
        scale = 100.0 if unit == "%" else 1.0
        return {
            row: {seed: scale * r.metrics[key] for seed, r in seeds.items() if key in r.metrics}
            for row, seeds in rows.items()
        }

    def _cell(self, column: str, row: str, values: Mapping[int, float]) -> Cell:
        finite = {seed: value for seed, value in values.items() if math.isfinite(value)}
        nothing = (None, None)
        centre, spread = summarise(list(finite.values()), self._statistic) if finite else nothing
        is_short = bool(values) and len(finite) < len(self._results.rows[row])
        note = f"{len(finite)} of {len(self._results.seeds)} seeds" if is_short else None
        printed = self._spec.printed(row, column)
        return Cell(finite, centre, spread, paper=printed, note=note)

    def _ranked(self, column: str, better: Better | None, cells: Cells) -> Cells:
        centres = {
            row: cell.centre
            for row, cell in cells.items()
            if cell.centre is not None and cell.note is None and self.is_ranked(row)
        }
        places = ranks(centres, better) if self._measured_alike(column, centres) else {}
        return {row: dataclasses.replace(cell, rank=places.get(row)) for row, cell in cells.items()}

    def _measured_alike(self, column: str, rows: Iterable[str]) -> bool:
        """Whether all results of some rows may be compared in a column."""
        metric = self._spec.columns[column].metric
        is_over_tasks = metric is not None and MetricKey.parse(metric).task is None
        keys = (*COMMON, TASKS) if is_over_tasks else COMMON
        results = (r for row in rows for r in self._results.rows[row].values())
        return alike((result.conditions for result in results), keys)

    def _compared(self, column: str, cells: Cells) -> Cells:
        """The cells with their differences from the row ``compare_with``."""
        reference = self._spec.compare_with
        if reference is None or reference not in cells or self._spec.columns[column].hours:
            return cells
        differences = {}
        for row, cell in cells.items():
            is_compared = row != reference and self._spec.rows[row].shown
            if is_compared and self._measured_alike(column, (row, reference)):
                difference = compare(cell.values, cells[reference].values)
                if difference is not None:
                    differences[row] = difference
        corrected = holm([difference.p for difference in differences.values()])
        result = dict(cells)
        for (row, difference), p in zip(differences.items(), corrected, strict=True):
            final = dataclasses.replace(difference, p_holm=p)
            result[row] = dataclasses.replace(cells[row], difference=final)
        return result


def _hours(result: SeedResult) -> float:
    return sum(run.summary.train_s or 0.0 for run in result.runs) / 3600


def _digits(unit: str, cells: Cells) -> int:
    """Decimals: 2 with a unit; without, four figures or so."""
    largest = max(abs(cell.centre or 0.0) for cell in cells.values())
    if unit or largest >= 10:
        return 2
    return 3 if largest >= 1 else 4
