r"""A grid as LaTeX's ``tabular``, in characters that pdflatex sets."""

# ruff: noqa: RUF001 - characters that look alike are set differently

import re

from rotograd_cli.printing.grid import Entry, Grid

_SYMBOLS = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "·": r"$\cdot$",
    "°": r"$^\circ$",
    "²": "$^2$",
    "³": "$^3$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "√": r"$\surd$",
    "∑": r"$\sum$",
    "‖": r"$\Vert$",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "▲": r"$\bigtriangleup$",
    "▼": r"$\bigtriangledown$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "’": "'",
    "“": "``",
    "”": "''",
}
_GREEK = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "varepsilon",
    "η": "eta",
    "θ": "theta",
    "λ": "lambda",
    "μ": "mu",
    "π": "pi",
    "ρ": "rho",
    "σ": "sigma",
    "τ": "tau",
    "φ": "varphi",
    "χ": "chi",
    "ω": "omega",
    "Δ": "Delta",
    "Σ": "Sigma",
    "Ω": "Omega",
}
_SYMBOLS |= {character: f"$\\{name}$" for character, name in _GREEK.items()}

CHARACTER_PT = 4.0
"""Width of a character in ``\\footnotesize``, on average: a digit has 4.3."""
COLUMN_SEP_PT = 12.0
"""Space between two columns of a ``tabular``."""


def tabular(grid: Grid) -> str:
    """Return a grid with booktabs rules: the best value bold, the second best underlined.

    Heads may have several lines.
    """
    num_numbers = len(grid.heads) - grid.num_labels
    lines = [
        rf"\begin{{tabular}}{{{'l' * grid.num_labels}{'r' * num_numbers}}}",
        r"\toprule",
        " & ".join(map(_head, grid.heads)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_latex, row)) + r" \\" for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def tabular_pt(grid: Grid) -> float:
    r"""Return about how wide a grid is in ``\footnotesize``, in points."""
    texts = [grid.heads, *([entry.text for entry in row] for row in grid.rows)]
    columns = ("\n".join(column).split("\n") for column in zip(*texts, strict=True))
    widths = (max(map(len, lines)) for lines in columns)
    return sum(CHARACTER_PT * width + COLUMN_SEP_PT for width in widths)


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


def _head(text: str) -> str:
    lines = r" \\ ".join(map(escape_latex, text.split("\n")))
    return rf"\begin{{tabular}}[b]{{@{{}}r@{{}}}}{lines}\end{{tabular}}" if "\n" in text else lines


def _latex(entry: Entry) -> str:
    command = {1: r"\textbf{%s}", 2: r"\underline{%s}", None: "%s"}[entry.rank]
    return command % escape_latex(entry.text)
