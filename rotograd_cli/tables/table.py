"""A table as numbers: cells with the values of every seed, their statistics, and comparisons."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.config import suggest
from rotograd_cli.tables.conditions import COMMON, TASKS, alike
from rotograd_cli.tables.delta import BETTER, gains
from rotograd_cli.tables.footnotes import footnotes
from rotograd_cli.tables.parts import Cell, Column, Row, Table
from rotograd_cli.tables.results import Missing, Results, all_summaries, metric_specs
from rotograd_cli.tables.spec import ColumnSpec, TableSpec, paper_value, row_label
from rotograd_cli.tables.statistics import compare, holm, ranks, smallest_p, summarise
from rotograd_cli.tasks.metrics import Better

__all__ = ["Cell", "Column", "Row", "Table", "build_table"]
SHORT_CELLS = (
    "Cells that count fewer seeds than their row are neither ranked nor marked: a value is not a "
    "finite number; a gain's base is 0, missing or not measured alike."
)


def build_table(
    spec: TableSpec,
    results: Results,
    *,
    statistic: str | None = None,
    missing: Missing | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Computes a table.

    Args:
        spec: Table, cut to the wanted rows by :func:`~rotograd_cli.tables.spec.select_rows`.
        results: Complete results by row and seed (:func:`~rotograd_cli.tables.results.collect`).
        statistic: ``median_std``, ``mean_std`` or ``mean_ci95``; None takes the table's.
        missing: Why a seed of a row has no result.
        notes: More sentences below the table.

    Returns:
        The table. Rows without a single result and without printed numbers stay in it, empty.

    Raises:
        ConfigError: If a column asks for what the runs do not have.
    """
    statistic = statistic or spec.statistic
    known: tuple[Mapping[str, Mapping[int, Any]], ...] = (results, missing or {})
    seeds = sorted({seed for by in known for row in by.values() for seed in row})
    absent = _absent(spec, results, missing or {}, seeds)
    specs = metric_specs(all_summaries(results))
    columns = [_column(spec, name, specs) for name in spec.columns]
    cells = {c.name: _cells(spec, c, results, statistic, seeds) for c in columns}
    columns = [_with_digits(column, spec.columns[column.name], cells) for column in columns]
    rows = [
        Row(
            name,
            row_label(spec, name),
            {column.name: cells[column.name][name] for column in columns},
            len(results.get(name, {})),
            absent[name],
            _is_ranked(spec, name, results, seeds),
        )
        for name, row in spec.rows.items()
        if row.shown
    ]
    compared = any(cell.difference for row in rows for cell in row.cells.values())
    reference = row_label(spec, spec.compare_with) if compared and spec.compare_with else None
    short = _short_cells(columns, rows, seeds)
    below = footnotes(
        spec, results, absent, statistic, reference, _smallest_p(rows), [*short, *notes]
    )
    return Table(spec.name, spec.title, statistic, seeds, reference, columns, rows, below)


def _short_cells(columns: Sequence[Column], rows: Sequence[Row], seeds: Sequence[int]) -> list[str]:
    """Which seeds of a row a cell leaves out."""
    names = []
    for column in columns:
        for row in rows:
            cell = row.cells[column.name]
            left_out = [s for s in seeds if s not in cell.values and s not in row.missing]
            if cell.note is not None:
                listed = ", ".join(map(str, left_out))
                names.append(f"{row.label}, {column.label} without seed {listed}")
    if not names:
        return []
    return [f"{SHORT_CELLS} {'; '.join(names)}."]


def _smallest_p(rows: Sequence[Row]) -> float:
    """The smallest corrected p that any column could have, given its seeds and its rows."""
    found = []
    for column in rows[0].cells if rows else ():
        differences = [d for row in rows if (d := row.cells[column].difference) is not None]
        if differences:
            seeds = max(difference.num_seeds for difference in differences)
            found.append(min(1.0, len(differences) * smallest_p(seeds)))
    return min(found, default=1.0)


def _absent(spec: TableSpec, results: Results, missing: Missing, seeds: Sequence[int]) -> Missing:
    """Every seed that a row in use has no result of, with the reason."""
    return {
        name: {
            seed: missing.get(name, {}).get(seed, "no run")
            for seed in seeds
            if seed not in results.get(name, {})
        }
        for name, row in spec.rows.items()
        if row.shown or name in missing or name in results
    }


def _column(spec: TableSpec, name: str, specs: Mapping[str, Mapping[str, Any]]) -> Column:
    column = spec.columns[name]
    unit, better = _unit_and_direction(spec, name, column, specs)
    label = column.label or name
    printed = any(paper_value(spec, row, name) is not None for row in spec.rows)
    paper_label = spec.paper.columns.get(name, f"{label} (paper)") if spec.paper else None
    paper_digits = spec.paper.digits if spec.paper else 2
    return Column(name, label, unit, better, 2, paper_label if printed else None, paper_digits)


def _with_digits(
    column: Column, spec: ColumnSpec, cells: Mapping[str, Mapping[str, Cell]]
) -> Column:
    """Decimals: those that are asked for; 2 with a unit; without, four figures or so."""
    digits = spec.digits
    if digits is None:
        largest = max(abs(cell.centre or 0.0) for cell in cells[column.name].values())
        digits = 2 if column.unit or largest >= 10 else 3 if largest >= 1 else 4
    return dataclasses.replace(column, digits=digits)


def _unit_and_direction(
    spec: TableSpec, name: str, column: ColumnSpec, specs: Mapping[str, Mapping[str, Any]]
) -> tuple[str, Better | None]:
    own: Any = column.better
    if column.hours:  # not ranked by itself: it depends on what else the machine did
        return "h", own
    if column.delta_of is not None:
        return "%", own or BETTER[str(spec.delta)]
    metric = str(column.metric)
    if metric not in specs and len(specs) > 1:
        raise ConfigError(
            f"`table.columns.{name}.metric` must be a metric of the runs, got {metric!r}; "
            f"{suggest(metric, list(specs))}"
        )
    known = specs.get(metric, {"better": None, "percent": False})
    percent = known["percent"] if column.percent is None else column.percent
    return "%" if percent else "", own or known["better"]


def _cells(
    spec: TableSpec, column: Column, results: Results, statistic: str, seeds: Sequence[int]
) -> dict[str, Cell]:
    values = _values(spec, column, results)
    cells = {}
    for row in spec.rows:
        finite = {seed: v for seed, v in values.get(row, {}).items() if math.isfinite(v)}
        centre, spread = summarise(list(finite.values()), statistic) if finite else (None, None)
        paper, note = paper_value(spec, row, column.name), None
        if values.get(row) and len(finite) < len(results[row]):
            note = f"{len(finite)} of {len(seeds)} seeds"
        cells[row] = Cell(finite, centre, spread, None, paper, None, note)
    return _compared(spec, _ranked(spec, column, cells, results, seeds), column, results)


def _values(spec: TableSpec, column: Column, results: Results) -> dict[str, dict[int, float]]:
    """Value by row and seed in the column's unit."""
    kind = spec.columns[column.name]
    if kind.delta_of is not None:
        return gains(str(spec.delta), kind.delta_of, results, spec.base)
    scale = 100.0 if column.unit == "%" else 1.0
    found: dict[str, dict[int, float]] = {}
    for row, seeds in results.items():
        found[row] = {}
        for seed, result in seeds.items():
            if kind.hours:
                found[row][seed] = sum(s["train_s"] for s in result.summaries) / 3600
            elif f"test/{kind.metric}" in result.metrics:
                found[row][seed] = scale * result.metrics[f"test/{kind.metric}"]
    return found


def _is_ranked(spec: TableSpec, row: str, results: Results, seeds: Sequence[int]) -> bool:
    is_base = spec.rows[row].per_task or row == spec.base
    return spec.rows[row].shown and not is_base and set(results.get(row, {})) == set(seeds)


def _ranked(
    spec: TableSpec,
    column: Column,
    cells: Mapping[str, Cell],
    results: Results,
    seeds: Sequence[int],
) -> dict[str, Cell]:
    centres = {
        row: cell.centre
        for row, cell in cells.items()
        if cell.centre is not None and cell.note is None and _is_ranked(spec, row, results, seeds)
    }
    is_fair = _measured_alike(spec, column, results, centres)
    places = ranks(centres, column.better) if is_fair else {}
    return {row: dataclasses.replace(cell, rank=places.get(row)) for row, cell in cells.items()}


def _measured_alike(spec: TableSpec, column: Column, results: Results, rows: Iterable[str]) -> bool:
    """Whether all results of some rows may be compared in a column."""
    metric = spec.columns[column.name].metric
    keys = COMMON if metric is None or "/" in metric else (*COMMON, TASKS)
    return alike((r.conditions for row in rows for r in results.get(row, {}).values()), keys)


def _compared(
    spec: TableSpec, cells: dict[str, Cell], column: Column, results: Results
) -> dict[str, Cell]:
    reference = spec.compare_with
    if reference is None or reference not in cells or spec.columns[column.name].hours:
        return cells
    found = {
        row: compare(cell.values, cells[reference].values)
        for row, cell in cells.items()
        if row != reference
        and spec.rows[row].shown
        and _measured_alike(spec, column, results, (row, reference))
    }
    differences = {row: found_one for row, found_one in found.items() if found_one is not None}
    corrected = holm([difference.p for difference in differences.values()])
    compared = dict(cells)
    for (row, difference), p in zip(differences.items(), corrected, strict=True):
        final = dataclasses.replace(difference, p_holm=p)
        compared[row] = dataclasses.replace(cells[row], difference=final)
    return compared
