"""A table as numbers: cells with the values of every seed, their statistics, and comparisons."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.config import suggest
from rotograd_cli.runs.summary import MetricDisplay
from rotograd_cli.tables.conditions import COMMON, TASKS, alike
from rotograd_cli.tables.delta import BETTER, gains
from rotograd_cli.tables.footnotes import footnotes
from rotograd_cli.tables.parts import Cell, Column, Row, Table
from rotograd_cli.tables.results import MetricSpecs, Results, SeedResult, metric_specs
from rotograd_cli.tables.schema import TableSpec
from rotograd_cli.tables.spec import paper_value, row_label
from rotograd_cli.tables.statistics import compare, holm, ranks, summarise
from rotograd_cli.tasks.metrics import Better

SHORT_CELLS = (
    "Cells that count fewer seeds than their row are neither ranked nor marked: a value is not a "
    "finite number; a gain's base is 0, missing or not measured alike."
)
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
    specs = metric_specs(results.runs)
    built = [_build_column(spec, name, results, specs, statistic) for name in spec.columns]
    columns = [column for column, _ in built]
    rows = [
        Row(
            name,
            row_label(spec, name),
            {column.name: cells[name] for column, cells in built},
            len(results.rows[name]),
            results.missing[name],
            _is_ranked(spec, name, results),
        )
        for name, row in spec.rows.items()
        if row.shown
    ]
    is_compared = any(cell.difference for row in rows for cell in row.cells.values())
    reference = row_label(spec, spec.compare_with or "") if is_compared else None
    more = [*_short_cells(columns, rows, results.seeds), *notes]
    below = footnotes(spec, results, rows, statistic, reference, more)
    return Table(spec.name, spec.title, statistic, results.seeds, reference, columns, rows, below)


def _build_column(
    spec: TableSpec, name: str, results: Results, specs: MetricSpecs, statistic: str
) -> tuple[Column, Cells]:
    column = spec.columns[name]
    unit, better = _unit_and_direction(spec, name, specs)
    values = _values(spec, name, unit, results)
    cells = {
        row: _cell(spec, results, name, row, values.get(row, {}), statistic) for row in spec.rows
    }
    label = column.label or name
    paper_label = spec.paper.columns.get(name, f"{label} (paper)") if spec.paper else None
    is_printed = any(cell.paper is not None for cell in cells.values())
    described = Column(
        name,
        label,
        unit,
        better,
        _digits(unit, cells) if column.digits is None else column.digits,
        paper_label if is_printed else None,
        spec.paper.digits if spec.paper else 2,
    )
    return described, _compared(spec, name, results, _ranked(spec, described, results, cells))


def _unit_and_direction(
    spec: TableSpec, name: str, specs: MetricSpecs
) -> tuple[str, Better | None]:
    column = spec.columns[name]
    better: Any = column.better
    if column.hours:  # not ranked by itself: it depends on what else the machine did
        return "h", better
    if column.delta_of is not None:
        return "%", better or BETTER[str(spec.delta)]
    metric = MetricKey.parse(str(column.metric))
    if metric not in specs and len(specs) > 1:
        raise ConfigError(
            f"`table.columns.{name}.metric` must be a metric of the runs, got {str(metric)!r}; "
            f"{suggest(str(metric), list(map(str, specs)))}"
        )
    declared = specs.get(metric, MetricDisplay(None, False))
    percent = declared.percent if column.percent is None else column.percent
    return "%" if percent else "", better or declared.better


def _hours(result: SeedResult) -> float:
    return sum(run.summary.train_s or 0.0 for run in result.runs) / 3600


def _values(
    spec: TableSpec, name: str, unit: str, results: Results
) -> Mapping[str, dict[int, float]]:
    """Value by row and seed in the column's unit."""
    column = spec.columns[name]
    if column.delta_of is not None:
        return gains(str(spec.delta), column.delta_of, results.rows, spec.base)
    if column.hours:
        return {
            row: {seed: _hours(result) for seed, result in seeds.items()}
            for row, seeds in results.rows.items()
        }
    key = MetricKey.parse(str(column.metric))
    scale = 100.0 if unit == "%" else 1.0
    return {
        row: {seed: scale * r.metrics[key] for seed, r in seeds.items() if key in r.metrics}
        for row, seeds in results.rows.items()
    }


def _cell(
    spec: TableSpec,
    results: Results,
    column: str,
    row: str,
    values: Mapping[int, float],
    statistic: str,
) -> Cell:
    finite = {seed: value for seed, value in values.items() if math.isfinite(value)}
    centre, spread = summarise(list(finite.values()), statistic) if finite else (None, None)
    is_short = bool(values) and len(finite) < len(results.rows[row])
    note = f"{len(finite)} of {len(results.seeds)} seeds" if is_short else None
    return Cell(finite, centre, spread, paper=paper_value(spec, row, column), note=note)


def _digits(unit: str, cells: Cells) -> int:
    """Decimals: 2 with a unit; without, four figures or so."""
    largest = max(abs(cell.centre or 0.0) for cell in cells.values())
    if unit or largest >= 10:
        return 2
    return 3 if largest >= 1 else 4


def _ranked(spec: TableSpec, column: Column, results: Results, cells: Cells) -> Cells:
    centres = {
        row: cell.centre
        for row, cell in cells.items()
        if cell.centre is not None and cell.note is None and _is_ranked(spec, row, results)
    }
    is_fair = _measured_alike(spec, column.name, results, centres)
    places = ranks(centres, column.better) if is_fair else {}
    return {row: dataclasses.replace(cell, rank=places.get(row)) for row, cell in cells.items()}


def _is_ranked(spec: TableSpec, row: str, results: Results) -> bool:
    is_base = spec.rows[row].per_task or row == spec.base
    return spec.rows[row].shown and not is_base and not results.missing[row]


def _measured_alike(spec: TableSpec, column: str, results: Results, rows: Iterable[str]) -> bool:
    """Whether all results of some rows may be compared in a column."""
    metric = spec.columns[column].metric
    is_over_tasks = metric is not None and MetricKey.parse(metric).task is None
    keys = (*COMMON, TASKS) if is_over_tasks else COMMON
    return alike((r.conditions for row in rows for r in results.rows[row].values()), keys)


def _compared(spec: TableSpec, column: str, results: Results, cells: Cells) -> Cells:
    """The cells with their differences from the row ``compare_with``."""
    reference = spec.compare_with
    if reference is None or reference not in cells or spec.columns[column].hours:
        return cells
    differences = {}
    for row, cell in cells.items():
        is_compared = row != reference and spec.rows[row].shown
        if is_compared and _measured_alike(spec, column, results, (row, reference)):
            difference = compare(cell.values, cells[reference].values)
            if difference is not None:
                differences[row] = difference
    corrected = holm([difference.p for difference in differences.values()])
    result = dict(cells)
    for (row, difference), p in zip(differences.items(), corrected, strict=True):
        final = dataclasses.replace(difference, p_holm=p)
        result[row] = dataclasses.replace(cells[row], difference=final)
    return result


def _short_cells(columns: Sequence[Column], rows: Sequence[Row], seeds: Sequence[int]) -> list[str]:
    """The sentence that says which seeds of a row a cell leaves out; none without such cells."""
    names = []
    for column in columns:
        for row in rows:
            cell = row.cells[column.name]
            if cell.note is not None:
                left_out = [s for s in seeds if s not in cell.values and s not in row.missing]
                listed = ", ".join(map(str, left_out))
                names.append(f"{row.label}, {column.label} without seed {listed}")
    return [f"{SHORT_CELLS} {'; '.join(names)}."] if names else []
