"""A table as Markdown, LaTeX, CSV and JSON, and as files."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

from rotograd_cli.errors import ConfigError
from rotograd_cli.files import replace_text
from rotograd_cli.printing.latex import escape_latex, latex_table
from rotograd_cli.printing.markdown import escape_markdown, markdown_table
from rotograd_cli.tables.layout import grids, sentences
from rotograd_cli.tables.parts import Table

LATEX_COLUMNS = (8, 3)
"""Columns that fit a page beside the first one: of values, and of the longer differences."""


def to_markdown(table: Table) -> str:
    """Return title, table, table of differences, and the sentences below."""
    parts = []
    for level, grid in zip(("#", "##"), grids(table), strict=False):
        parts += [f"{level} {escape_markdown(grid.title)}", markdown_table(grid)]
    notes = sentences(table, "Bold", "italic")
    parts.append("\n".join(f"- {escape_markdown(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def to_latex(table: Table) -> str:
    """Return floats of at most ``LATEX_COLUMNS``, and a list of the sentences below."""
    parts = zip(grids(table), LATEX_COLUMNS, strict=False)
    blocks = [block for grid, width in parts for block in grid.blocks(width)]
    floats = [latex_table(block, f"tab:{table.name}-{i}") for i, block in enumerate(blocks, 1)]
    notes = sentences(table, "Bold", "underlined")
    items = "\n".join(rf"  \item {escape_latex(note)}" for note in notes)
    below = "\\begin{itemize}\\footnotesize\n" + items + "\n\\end{itemize}"
    return "\n\n".join(["% \\usepackage{booktabs}", *floats, below]) + "\n"


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


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write ``table.md``, ``table.tex``, ``table.csv`` and ``table.json``, each in one piece.

    Args:
        table: Table.
        folder: Where to; created if it does not exist.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    texts = {"md": to_markdown, "tex": to_latex, "csv": to_csv, "json": to_json}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for ending, make in texts.items():
            replace_text(folder / f"table.{ending}", make(table))
    except OSError as error:
        raise ConfigError(
            f"`output` must be a folder that can be written, got {folder} ({error.strerror}); "
            "choose another one."
        ) from error
    return [folder / f"table.{ending}" for ending in texts]
