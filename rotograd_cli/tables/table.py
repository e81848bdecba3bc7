"""A table as numbers: cells with the values of every seed, their statistics, and comparisons."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from rotograd_cli.tables.columns import Content, Kind, Source, check_measured
from rotograd_cli.tables.footnotes import footnotes
from rotograd_cli.tables.kinds import kind_of
from rotograd_cli.tables.parts import Cell, Column, Row, Table
from rotograd_cli.tables.protocols import by_protocol
from rotograd_cli.tables.results import GEOMEAN_LOSS, Results, Rows, metric_specs
from rotograd_cli.tables.runs import COMPARED, TASKS, alike
from rotograd_cli.tables.spec import ColumnSpec, TableSpec
from rotograd_cli.tables.statistics import Difference, compare, holm, ranks, summarise
from rotograd_cli.tasks.metrics import Better
from rotograd_cli.tasks.task import Task, task_statistics

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
    builder = _Builder(spec, results, statistic, results.rows)
    shown = [name for name, column in spec.columns.items() if column.shown]
    built = [each for name in shown for each in _columns(name, spec, results, builder)]
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
    amount = results.trained_on
    title = f"{spec.title}, trained on {amount}" if amount else spec.title
    table = Table(spec.name, title, statistic, results.seeds, reference, columns, rows, [])
    return dataclasses.replace(table, footnotes=footnotes(spec, results, table, notes))


def _columns(
    name: str, spec: TableSpec, results: Results, builder: "_Builder"
) -> list[tuple[Column, Cells]]:
    """Return a column; where its numbers are of several protocols, one for each."""
    groups = by_protocol(name, spec, results)
    if len(groups) == 1:
        return [builder.column(name)]
    columns: list[tuple[Column, Cells]] = []
    for suffix, rows in groups.items():
        column, cells = builder.restricted_to(rows).column(name)
        if all(cell.centre is None for cell in cells.values()):
            continue
        if columns:  # printed numbers stand once
            column = dataclasses.replace(column, paper_label=None)
            cells = {row: dataclasses.replace(cell, paper=None) for row, cell in cells.items()}
        label = f"{column.label}{suffix}"
        columns.append((dataclasses.replace(column, name=f"{name}{suffix}", label=label), cells))
    return columns


class _Builder:
    """Computes the cells of columns, each once: those of a mean rank need others.

    Args:
        spec: Table.
        results: Its results.
        statistic: Statistic over seeds.
        rows: The results to show; a row of which they are a part is marked and not ranked.
    """

    def __init__(self, spec: TableSpec, results: Results, statistic: str, rows: Rows) -> None:
        self._spec = spec
        self._results = results
        self._statistic = statistic
        self._source = Source(rows, metric_specs(results.runs), self._ranked_of)
        self._built: dict[str, tuple[Column, Cells]] = {}

    def restricted_to(self, rows: Rows) -> "_Builder":
        """Return the builder of the same table with some of its results."""
        return _Builder(self._spec, self._results, self._statistic, rows)

    def column(self, name: str) -> tuple[Column, Cells]:
        """Return a column and its cells, ranked and compared."""
        if name not in self._built:
            self._built[name] = self._build(name)
        return self._built[name]

    def _build(self, name: str) -> tuple[Column, Cells]:
        kind = kind_of(name, self._spec)
        content = kind.content(self._source)
        cells = {row: self._cell(name, row, content) for row in self._spec.rows}
        places = ranks(self._ranked(kind.spec, cells), content.better)
        differences = self._differences(kind.spec, cells) if kind.IS_COMPARED else {}
        column = self._head(kind, content, cells)
        return column, {
            row: dataclasses.replace(cell, rank=places.get(row), difference=differences.get(row))
            for row, cell in cells.items()
        }

    def _head(self, kind: Kind, content: Content, cells: Cells) -> Column:
        largest = max(abs(cell.centre or 0.0) for cell in cells.values())
        digits = kind.spec.digits
        return Column(
            kind.name,
            kind.label,
            content.unit,
            content.better,
            kind.digits(content.unit, largest) if digits is None else digits,
            self._paper_label(kind.name, kind.label, cells),
            self._paper_digits(kind.name),
            kind.COUNTS_SEEDS,
        )

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

    def _paper_digits(self, name: str) -> int:
        paper = self._spec.paper
        return 2 if paper is None else paper.column_digits.get(name, paper.digits)

    def _cell(self, column: str, row: str, content: Content) -> Cell:
        values = content.values[row]
        finite = {seed: value for seed, value in values.items() if math.isfinite(value)}
        is_short = bool(values) and len(finite) < len(self._results.rows[row])
        note = f"{len(finite)} of {len(self._results.seeds)} seeds" if is_short else None
        cell = Cell(finite, paper=self._spec.printed(row, column), note=note)
        if content.centres is not None:
            return dataclasses.replace(cell, centre=content.centres.get(row))
        if not finite:
            return cell
        centre, spread = summarise(list(finite.values()), self._statistic)
        return dataclasses.replace(cell, centre=centre, spread=spread)

    def _ranked_of(self, name: str) -> tuple[Better | None, dict[str, float]]:
        """Direction of a column, and the number of every row that takes part in its ranks."""
        column, cells = self.column(name)
        return column.better, self._ranked(self._spec.columns[name], cells)

    def _ranked(self, column: ColumnSpec, cells: Cells) -> dict[str, float]:
        centres = {
            row: cell.centre
            for row, cell in cells.items()
            if cell.centre is not None and cell.note is None and self.is_ranked(row)
        }
        return centres if self._measured_alike(column, centres) else {}

    def _measured_alike(self, column: ColumnSpec, rows: Iterable[str]) -> bool:
        """Whether all results of some rows may be compared in a column."""
        keys = (*COMPARED, TASKS) if column.is_over_tasks else COMPARED
        results = (r for row in rows for r in self._results.rows[row].values())
        return alike((result.conditions for result in results), keys)

    def _differences(self, column: ColumnSpec, cells: Cells) -> dict[str, Difference]:
        """Differences from the row ``compare_with``, corrected for their number."""
        reference = self._spec.compare_with
        if reference is None:
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
        check_measured("tasks", task, names)
    for name, column in spec.columns.items():
        for task in column.delta_of or ():
            check_measured(f"columns.{name}.delta_of", task, names)
        if column.metric is not None:
            check_measured(f"columns.{name}.metric", column.metric, metrics)


def measured_metrics(tasks: Sequence[Task]) -> list[str]:
    """Return the metrics, without their split, that runs of these tasks have."""
    metrics = [f"{task.name}/{metric.name}" for task in tasks for metric in task.metrics]
    return [*metrics, str(GEOMEAN_LOSS), *(each.name for each in task_statistics(tasks))]
