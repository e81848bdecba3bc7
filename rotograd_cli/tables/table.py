"""A table as numbers: cells with the values of every seed, their statistics, and comparisons."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from rotograd_cli.config.schema import suggest
from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.summary import MetricDisplay
from rotograd_cli.tables.delta import BETTER, gains
from rotograd_cli.tables.footnotes import footnotes
from rotograd_cli.tables.parts import Cell, Column, Row, Table
from rotograd_cli.tables.results import GEOMEAN_LOSS, Results, SeedResult, metric_specs
from rotograd_cli.tables.runs import COMMON, TASKS, alike
from rotograd_cli.tables.spec import ColumnSpec, TableSpec
from rotograd_cli.tables.statistics import Difference, compare, holm, ranks, summarise
from rotograd_cli.tasks.metrics import Better
from rotograd_cli.tasks.task import Task, task_statistics

Values = Mapping[str, Mapping[int, float]]
"""Values of a column by row and seed."""
Cells = dict[str, Cell]
"""Cells of a column by row."""


def build_table(
    spec: TableSpec, results: Results, *, statistic: str | None = None, notes: Sequence[str] = ()
) -> Table:
    """Compute a table.

    Args:
        spec: Table, cut to the rows to show by its method ``select``.
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
    built = [builder.column(name, column) for name, column in spec.columns.items()]
    rows = [
        Row(
            name,
            spec.label(name),
            {column.name: cells[name] for column, cells in built},
            len(results.rows[name]),
            results.missing[name],
            builder.is_ranked(name),
        )
        for name, row in spec.rows.items()
        if row.shown
    ]
    is_compared = any(cell.difference for row in rows for cell in row.cells.values())
    reference = spec.label(str(spec.compare_with)) if is_compared else None
    columns = [column for column, _ in built]
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

    def column(self, name: str, spec: ColumnSpec) -> tuple[Column, Cells]:
        """Return a column and its cells, ranked and compared."""
        unit, better, values = self._content(name, spec)
        cells = {row: self._cell(name, row, values[row]) for row in self._spec.rows}
        places = self._ranks(spec, better, cells)
        differences = self._differences(spec, cells)
        digits = _digits(unit, cells) if spec.digits is None else spec.digits
        label = spec.label or name
        paper_label = self._paper_label(name, label, cells)
        paper_digits = 2 if self._spec.paper is None else self._spec.paper.digits
        column = Column(name, label, unit, better, digits, paper_label, paper_digits)
        return column, {
            row: dataclasses.replace(cell, rank=places.get(row), difference=differences.get(row))
            for row, cell in cells.items()
        }

    def is_ranked(self, row: str) -> bool:
        """Return whether a row takes part in the ranks."""
        spec = self._spec.rows[row]
        is_base = spec.per_task or row == self._spec.base
        return spec.shown and not is_base and not self._results.missing[row]

    def _paper_label(self, name: str, label: str, cells: Cells) -> str | None:
        """Head of the column of printed numbers; None if there are none."""
        paper = self._spec.paper
        if paper is None or all(cell.paper is None for cell in cells.values()):
            return None
        return paper.columns.get(name, f"{label} (paper)")

    def _content(self, name: str, column: ColumnSpec) -> tuple[str, Better | None, Values]:
        """Unit, direction of better, and values in that unit by row and seed."""
        rows = self._results.rows
        if column.delta_of is not None:
            convention = str(self._spec.delta)
            gain = gains(convention, column.delta_of, rows, self._spec.base)
            return "%", BETTER[convention], gain
        if column.hours:  # not ranked: it depends on what else the machine did
            hours = {row: {s: _hours(r) for s, r in seeds.items()} for row, seeds in rows.items()}
            return "h", None, hours
        metric = MetricKey.parse(str(column.metric))
        if len(self._metrics) > 1:
            _check_measured(f"columns.{name}.metric", str(metric), list(map(str, self._metrics)))
        declared = self._metrics.get(metric, MetricDisplay(None, False))
        percent = declared.percent if column.percent is None else column.percent
        factor = 100.0 if percent else 1.0
        values = {
            row: {s: factor * r.metrics[metric] for s, r in seeds.items() if metric in r.metrics}
            for row, seeds in rows.items()
        }
        return "%" if percent else "", declared.better, values

    def _cell(self, column: str, row: str, values: Mapping[int, float]) -> Cell:
        finite = {seed: value for seed, value in values.items() if math.isfinite(value)}
        is_short = bool(values) and len(finite) < len(self._results.rows[row])
        note = f"{len(finite)} of {len(self._results.seeds)} seeds" if is_short else None
        cell = Cell(finite, paper=self._spec.printed(row, column), note=note)
        if not finite:
            return cell
        centre, spread = summarise(list(finite.values()), self._statistic)
        return dataclasses.replace(cell, centre=centre, spread=spread)

    def _ranks(self, column: ColumnSpec, better: Better | None, cells: Cells) -> dict[str, int]:
        centres = {
            row: cell.centre
            for row, cell in cells.items()
            if cell.centre is not None and cell.note is None and self.is_ranked(row)
        }
        return ranks(centres, better) if self._measured_alike(column, centres) else {}

    def _measured_alike(self, column: ColumnSpec, rows: Iterable[str]) -> bool:
        """Whether all results of some rows may be compared in a column."""
        keys = (*COMMON, TASKS) if column.is_over_tasks else COMMON
        results = (r for row in rows for r in self._results.rows[row].values())
        return alike((result.conditions for result in results), keys)

    def _differences(self, column: ColumnSpec, cells: Cells) -> dict[str, Difference]:
        """Differences from the row ``compare_with``, corrected for their number."""
        reference = self._spec.compare_with
        if reference is None or column.hours:
            return {}
        differences = {}
        for row, cell in cells.items():
            is_compared = row != reference and self._spec.rows[row].shown
            if is_compared and self._measured_alike(column, (row, reference)):
                difference = compare(cell.values, cells[reference].values)
                if difference is not None:
                    differences[row] = difference
        corrected = holm([difference.p for difference in differences.values()])
        return {
            row: dataclasses.replace(difference, p_holm=p)
            for (row, difference), p in zip(differences.items(), corrected, strict=True)
        }


def check_tasks(spec: TableSpec, tasks: Sequence[Task]) -> None:
    """Refuse a table of tasks or metrics that its data set does not have, before any run.

    Args:
        spec: Table.
        tasks: All tasks of its runs.

    Raises:
        ConfigError: If the data set lacks one.
    """
    names = [task.name for task in tasks]
    metrics = measured_metrics(tasks)
    for task in spec.tasks:
        _check_measured("tasks", task, names)
    for name, column in spec.columns.items():
        for task in column.delta_of or ():
            _check_measured(f"columns.{name}.delta_of", task, names)
        if column.metric is not None:
            _check_measured(f"columns.{name}.metric", column.metric, metrics)


def measured_metrics(tasks: Sequence[Task]) -> list[str]:
    """Return the metrics, without their split, that runs of these tasks have."""
    metrics = [f"{task.name}/{metric.name}" for task in tasks for metric in task.metrics]
    return [*metrics, str(GEOMEAN_LOSS), *(each.name for each in task_statistics(tasks))]


def _check_measured(key: str, name: str, measured: list[str]) -> None:
    if name not in measured:
        hint = suggest(name, measured)
        raise ConfigError(f"`table.{key}` must be measured by the runs, got {name!r}; {hint}")


def _hours(result: SeedResult) -> float:
    return sum(run.summary.train_s or 0.0 for run in result.runs) / 3600


def _digits(unit: str, cells: Cells) -> int:
    """Decimals: 2 with a unit; without, four figures or so."""
    largest = max(abs(cell.centre or 0.0) for cell in cells.values())
    if unit or largest >= 10:
        return 2
    return 3 if largest >= 1 else 4
