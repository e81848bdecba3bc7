"""A table as Markdown, LaTeX, CSV and JSON, and as files."""

import csv
import io
import json
import os
import re
from dataclasses import asdict
from pathlib import Path

from rotograd_cli.errors import ConfigError
from rotograd_cli.files import replace_text
from rotograd_cli.tables.layout import Entry, Grid, blocks, difference_grid, marks_note, value_grid
from rotograd_cli.tables.parts import Table

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    "°": r"$^\circ$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "▲": r"$\bigtriangleup$",
    "▼": r"$\bigtriangledown$",
}


def to_markdown(table: Table) -> str:
    """Title, table, table of differences, sentences below."""
    parts = [f"# {_md(table.title)}", _markdown_grid(value_grid(table))]
    differences = difference_grid(table)
    if differences is not None:
        parts += [f"## {_md(differences.title)}", _markdown_grid(differences)]
    notes = [*marks_note(table, "Bold", "italic"), *table.footnotes]
    parts.append("\n".join(f"- {_md(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _markdown_grid(grid: Grid) -> str:
    lines = [_markdown_row([_md(head) for head in grid.heads])]
    lines.append(_markdown_row(["---", *["---:"] * (len(grid.heads) - 1)]))
    lines += [_markdown_row([_markdown_entry(entry) for entry in row]) for row in grid.rows]
    return "\n".join(lines)


def _markdown_row(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _markdown_entry(entry: Entry) -> str:
    mark = {1: "**", 2: "*", None: ""}[entry.rank]
    return f"{mark}{_md(entry.text)}{mark}"


def _md(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def to_latex(table: Table) -> str:
    r"""Floats with booktabs rules, a wide table cut into several; needs ``\usepackage{booktabs}``.

    The best value of a column is bold, the second best underlined.
    """
    grids = blocks(value_grid(table))
    differences = difference_grid(table)
    grids += [] if differences is None else blocks(differences, 3)
    floats = [_latex_float(grid, f"tab:{table.name}-{i}") for i, grid in enumerate(grids, 1)]
    notes = [*marks_note(table, "Bold", "underlined"), *table.footnotes]
    items = "\n".join(rf"  \item {escape_latex(note)}" for note in notes)
    below = "\\begin{itemize}\\footnotesize\n" + items + "\n\\end{itemize}"
    return "\n\n".join(["% \\usepackage{booktabs}", *floats, below]) + "\n"


def _latex_float(grid: Grid, label: str) -> str:
    rows = [" & ".join(_latex_entry(entry) for entry in row) + r" \\" for row in grid.rows]
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize",
        rf"\caption{{{escape_latex(grid.title)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(grid.heads) - 1)}}}",
        r"\toprule",
        " & ".join(map(escape_latex, grid.heads)) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _latex_entry(entry: Entry) -> str:
    command = {1: r"\textbf{%s}", 2: r"\underline{%s}", None: "%s"}[entry.rank]
    return command % escape_latex(entry.text)


def escape_latex(text: str) -> str:
    r"""Text for LaTeX: its special characters escaped, the symbols that tables use as mathematics.

    Examples:
        >>> escape_latex("IMTL-G + R_k, 5 %")
        'IMTL-G + R\\_k, 5 \\%'
        >>> escape_latex("-2.51 ± 3.01")
        '$-$2.51 $\\pm$ 3.01'
    """
    # a bracket at the start of a row would be taken for an option of the line break before it
    body = "".join(_LATEX.get(character, character) for character in text)
    body = re.sub(r"(?<![\w-])-(?=\d)", "$-$", body)
    return f"{{}}{body}" if body.startswith("[") else body


def to_csv(table: Table) -> str:
    """Every value of every seed, one a line: row, column, unit, seed, value (in full precision)."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "column", "unit", "seed", "value"])
    for row in table.rows:
        for column in table.columns:
            for seed, value in sorted(row.cells[column.name].values.items()):
                writer.writerow([row.name, column.name, column.unit, seed, repr(value)])
    return file.getvalue()


def to_json(table: Table) -> str:
    """Everything: the fields of :class:`~rotograd_cli.tables.table.Table`; seeds become texts."""
    return json.dumps(asdict(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_table(table: Table, folder: Path) -> list[Path]:
    """Writes ``table.md``, ``table.tex``, ``table.csv`` and ``table.json``, each atomically.

    Args:
        table: Table.
        folder: Where to; made if it is not there.

    Returns:
        The files.

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


def temporary_of(path: Path) -> Path:
    """Where a file is written before it takes its name: no other process writes there."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
