"""A table as texts: the same rows and columns for terminal, Markdown, LaTeX, CSV and JSON."""

import csv
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from rotograd_cli.errors import ConfigError
from rotograd_cli.files import replace_text
from rotograd_cli.printing.grid import Entry, Grid, escape_markdown
from rotograd_cli.tables.latex import Layout, floats, to_input
from rotograd_cli.tables.parts import Cell, Column, Row, Table
from rotograd_cli.tables.statistics import LEVEL, Difference


class DifferenceText(NamedTuple):
    """The parts of a difference as texts."""

    mean: str
    interval: str
    """In brackets."""
    mark: str
    """▲ or ▼ after a blank; empty without one."""
    seeds: str
    """Number of seeds in parentheses after a blank; empty where all are there."""
    difference: Difference

    def in_one_line(self) -> str:
        """Return all parts and p."""
        p = f"p {self.difference.p_holm:.2g}"
        return f"{self.mean} {self.interval}, {p}{self.mark}{self.seeds}"


def to_markdown(table: Table) -> str:
    """Return title, table, table of differences, and the sentences below."""
    parts = []
    for level, grid in zip(("#", "##"), grids(table), strict=False):
        parts += [f"{level} {escape_markdown(grid.title)}", grid.markdown()]
    notes = [*sentences(table, "Bold", "italic"), *table.details]
    parts.append("\n".join(f"- {escape_markdown(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def to_latex(table: Table, layout: Layout = "auto") -> str:
    """Return the table and its main footnotes as floats, the other footnotes as comments.

    Args:
        table: Table.
        layout: As :func:`~rotograd_cli.tables.latex.floats` takes it.
    """
    values, *differences = grids(table)
    parts = floats(values, layout, sentences(table, "Bold", "underlined"))
    for grid in differences:
        parts += floats(grid, layout)
    return to_input(table.name, parts, table.details)


def to_csv(table: Table) -> str:
    """Return a line per value of a seed: row, column, unit, seed, value (in full precision)."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "column", "unit", "seed", "value"])
    for row in table.rows:
        for column in table.columns:
            for seed, value in sorted(row.cells[column.name].values.items()):
                writer.writerow([row.name, column.name, column.unit, seed, repr(value)])
    return file.getvalue()


def to_json(table: Table) -> str:
    """Return all fields of :class:`~rotograd_cli.tables.parts.Table`; seeds become texts."""
    return json.dumps(asdict(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_table(table: Table, folder: Path, layout: Layout = "auto") -> list[Path]:
    """Write ``table.md``, ``table.tex``, ``table.csv`` and ``table.json``, each in one piece.

    Args:
        table: Table.
        folder: Where to; created if it does not exist.
        layout: Of ``table.tex``.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    texts = {
        "md": to_markdown(table),
        "tex": to_latex(table, layout),
        "csv": to_csv(table),
        "json": to_json(table),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for ending, text in texts.items():
            replace_text(folder / f"table.{ending}", text)
    except OSError as error:
        raise ConfigError(
            f"`output` must be a folder that can be written, got {folder} ({error.strerror}); "
            "choose another one."
        ) from error
    return [folder / f"table.{ending}" for ending in texts]


def grids(table: Table) -> list[Grid]:
    """Return the table, and the table of differences where rows are compared."""
    differences = difference_grid(table)
    return [value_grid(table), *([] if differences is None else [differences])]


def sentences(table: Table, best: str, second: str) -> list[str]:
    """Return the main footnotes, first how ranks are marked if there are any.

    Args:
        table: Table.
        best: How the format shows the best value, e.g. ``Bold``.
        second: How it shows the second best.
    """
    if all(cell.rank is None for row in table.rows for cell in row.cells.values()):
        return table.main_footnotes
    marks = (
        f"{best}: best of its column; {second}: second best. Single-task networks and rows with "
        "missing seeds are not ranked."
    )
    return [marks, *table.main_footnotes]


def value_grid(table: Table) -> Grid:
    """Return the values of the rows, each column followed by that of the paper's numbers if any."""
    heads = ["method"]
    for column in table.columns:
        heads += [_head(column), *([] if column.paper_label is None else [column.paper_label])]
    rows = []
    for row in table.rows:
        entries = [_entries(table, column, row.cells[column.name]) for column in table.columns]
        rows.append([Entry(_row_label(table, row)), *itertools.chain.from_iterable(entries)])
    return Grid(table.title, heads, rows)


def difference_grid(
    table: Table, written: Callable[["DifferenceText"], str] | None = None
) -> Grid | None:
    """Return the differences from the reference row; None where nothing is compared.

    Args:
        table: Table.
        written: Joins the parts of a difference; None takes one line.
    """
    joined = written or DifferenceText.in_one_line
    columns = [c for c in table.columns if any(row.cells[c.name].difference for row in table.rows)]
    if table.compare_with is None or not columns:
        return None
    rows = [
        [
            _row_label(table, row),
            *(_difference(table, c, row.cells[c.name], joined) for c in columns),
        ]
        for row in table.rows
        if any(row.cells[c.name].difference for c in columns)
    ]
    title = f"{table.title}: difference from {table.compare_with}"
    return Grid.of_texts(["method", *map(_head, columns)], rows, title)


def number(value: float, digits: int) -> str:
    """Return a number as text, without a minus sign before a zero.

    Examples:
        >>> number(-2.514, 2), number(-0.001, 2)
        ('-2.51', '0.00')
    """
    return f"{value:z.{digits}f}"


def _head(column: Column) -> str:
    arrow = {"higher": " ↑", "lower": " ↓", None: ""}[column.better]
    return f"{column.label}{' %' if column.unit == '%' else ''}{arrow}"


def _row_label(table: Table, row: Row) -> str:
    if not row.missing:
        return row.label
    return f"{row.label} ({row.num_seeds} of {len(table.seeds)} seeds)"


def _entries(table: Table, column: Column, cell: Cell) -> list[Entry]:
    text = _measured(column, cell)
    mark = _mark(table, column, cell.difference)
    note = f" ({cell.note})" if cell.note else ""
    measured = Entry(f"{text}{mark}{note}", cell.rank)
    if column.paper_label is None:
        return [measured]
    if cell.paper is None:
        return [measured, Entry("-")]
    printed = _centre_and_spread(cell.paper.value, cell.paper.spread, column.paper_digits)
    return [measured, Entry(f"{printed}{cell.paper.mark}")]


def _measured(column: Column, cell: Cell) -> str:
    if column.counts_seeds and cell.centre is not None:
        return f"{number(cell.centre, 0)} / {len(cell.values)}"
    return _centre_and_spread(cell.centre, cell.spread, column.digits)


def _centre_and_spread(centre: float | None, spread: float | None, digits: int) -> str:
    if centre is None:
        return "-"
    text = number(centre, digits)
    return text if spread is None else f"{text} ± {number(spread, digits)}"


def _mark(table: Table, column: Column, difference: Difference | None) -> str:
    """▲ or ▼; never of the seeds that happen to be left, which may be those that went well."""
    if difference is None or difference.num_seeds < len(table.seeds):
        return ""
    if column.better is None or not difference.p_holm < LEVEL:
        return ""
    is_better = (difference.mean > 0) == (column.better == "higher")
    return " ▲" if is_better else " ▼"


def _difference(
    table: Table, column: Column, cell: Cell, joined: Callable[[DifferenceText], str]
) -> str:
    difference = cell.difference
    if difference is None:
        return "-"
    values = (difference.mean, difference.low, difference.high)
    mean, low, high = (number(value, column.digits) for value in values)
    sign = "+" if float(mean) > 0 else ""
    is_short = difference.num_seeds < len(table.seeds)
    seeds = f" ({difference.num_seeds} seeds)" if is_short else ""
    mark = _mark(table, column, difference)
    return joined(DifferenceText(f"{sign}{mean}", f"[{low}, {high}]", mark, seeds, difference))
