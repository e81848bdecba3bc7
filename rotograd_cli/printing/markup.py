r"""A grid as a table in Markdown and in LaTeX, which needs ``\usepackage{booktabs}``."""

import re
from collections.abc import Iterable

from rotograd_cli.printing.grid import Entry, Grid

_SYMBOLS = {
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


def latex_table(grid: Grid, label: str) -> str:
    """Return a float with booktabs rules: the best value bold, the second best underlined."""
    num_numbers = len(grid.heads) - grid.num_labels
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize",
        rf"\caption{{{escape_latex(grid.title)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{{'l' * grid.num_labels}{'r' * num_numbers}}}",
        r"\toprule",
        " & ".join(map(escape_latex, grid.heads)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_latex, row)) + r" \\" for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def escape_latex(text: str) -> str:
    r"""Escape LaTeX's special characters and write the symbols of tables as mathematics.

    Examples:
        >>> escape_latex("IMTL-G + R_k, 5 %")
        'IMTL-G + R\\_k, 5 \\%'
        >>> escape_latex("-2.51 ± 3.01")
        '$-$2.51 $\\pm$ 3.01'
    """
    body = "".join(_SYMBOLS.get(character, character) for character in text)
    body = re.sub(r"(?<![\w-])-(?=\d)", "$-$", body)
    # a bracket at the start of a row would be taken for an option of the line break before it
    return f"{{}}{body}" if body.startswith("[") else body


def _latex(entry: Entry) -> str:
    command = {1: r"\textbf{%s}", 2: r"\underline{%s}", None: "%s"}[entry.rank]
    return command % escape_latex(entry.text)


def markdown_table(grid: Grid) -> str:
    """Return the rows of a Markdown table: the best value bold, the second best italic."""
    num_numbers = len(grid.heads) - grid.num_labels
    lines = [
        _row(escape_markdown(head) for head in grid.heads),
        _row(["---"] * grid.num_labels + ["---:"] * num_numbers),
        *(_row(_markdown(entry) for entry in row) for row in grid.rows),
    ]
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    r"""Escape what Markdown would read as formatting; line breaks become blanks.

    Examples:
        >>> escape_markdown("A_b | [x]")
        'A\\_b \\| \\[x\\]'
    """
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _markdown(entry: Entry) -> str:
    mark = {1: "**", 2: "*", None: ""}[entry.rank]
    return f"{mark}{escape_markdown(entry.text)}{mark}"
