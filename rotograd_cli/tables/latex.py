r"""A table as LaTeX floats that fit a page."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from rotograd_cli.printing.grid import Grid
from rotograd_cli.printing.latex import escape_latex, tabular, tabular_pt

Layout = Annotated[str, Literal["auto", "table", "table*", "resizebox", "split"]]

COLUMN_PT = 220.0
"""What fits is a ``table``: less than the column of a two-column page (ICML: 234)."""
TEXT_PT = 345.0
"""Width of the text of ``article``, the narrowest page that a wide table must fit."""
SMALLEST_SCALE = 0.6
"""To which ``auto`` scales a wide table before it splits it."""
MAX_LINES = 45
"""Lines that the parts of a float may have together."""
HEADER = r"""% \usepackage{booktabs} % rules
% \usepackage{graphicx} % \resizebox"""
_RESIZED = r"\resizebox{\ifdim\width>\linewidth \linewidth\else\width\fi}{!}{%"
"""Scaled down to the width of the text, never up."""


class Float(NamedTuple):
    """A floating table."""

    environment: str
    caption: str
    tabulars: Sequence[str]
    """One below the other."""
    notes: Sequence[str] = ()
    """Sentences below them."""

    def text(self, label: str) -> str:
        """Return the float in LaTeX."""
        below = "\\par\n".join(map(escape_latex, self.notes))
        notes = [rf"\par\medskip\parbox{{\linewidth}}{{\raggedright {below}}}"] if below else []
        lines = [
            rf"\begin{{{self.environment}}}",
            r"\centering\footnotesize",
            rf"\caption{{{escape_latex(self.caption)}}}",
            rf"\label{{{label}}}",
            "\n\\par\\medskip\n".join(self.tabulars),
            *notes,
            rf"\end{{{self.environment}}}",
        ]
        return "\n".join(lines)


def floats(grid: Grid, layout: Layout, notes: Sequence[str] = ()) -> list[Float]:
    r"""Return a grid as floats.

    Args:
        grid: What they show.
        layout: ``table`` or ``table*``: one in its natural size. ``resizebox``: a ``table*``,
            scaled down to the width of the text where it is wider. ``split``: parts of a few
            columns, one below the other, in as few floats as pages allow. ``auto``: a ``table``
            where it fits a column, ``resizebox`` where it stays readable, else ``split``.
        notes: Sentences below the last one.
    """
    broken = grid.with_broken_heads()
    chosen = _by_width(grid, broken) if layout == "auto" else layout
    if chosen == "split":
        return _split(broken, notes)
    if chosen == "resizebox":
        return [Float("table*", grid.title, [_resized(tabular(broken))], notes)]
    return [Float(chosen, grid.title, [tabular(grid)], notes)]


def _by_width(grid: Grid, broken: Grid) -> Layout:
    if tabular_pt(grid) <= COLUMN_PT:
        return "table"
    return "resizebox" if tabular_pt(broken) * SMALLEST_SCALE <= TEXT_PT else "split"


def _split(grid: Grid, notes: Sequence[str]) -> list[Float]:
    parts = [_resized(tabular(part)) for part in _parts(grid)]
    per_float = max(1, MAX_LINES // (len(grid.rows) + 3))
    groups = [parts[start : start + per_float] for start in range(0, len(parts), per_float)]
    captions = [grid.title, *[f"{grid.title} (continued)"] * (len(groups) - 1)]
    several = [Float("table*", *each) for each in zip(captions, groups, strict=True)]
    return [*several[:-1], several[-1]._replace(notes=notes)]


def _parts(grid: Grid) -> list[Grid]:
    """As few parts as fit the width of the text, of equally many columns."""
    num_columns = len(grid.heads) - 1
    for num_parts in range(1, num_columns + 1):
        parts = grid.blocks(math.ceil(num_columns / num_parts))
        if all(tabular_pt(part) <= TEXT_PT for part in parts):
            break
    return parts


def _resized(body: str) -> str:
    return f"{_RESIZED}\n{body}}}"


def to_input(name: str, parts: Sequence[Float], details: Sequence[str]) -> str:
    r"""Return the content of a file for ``\input``.

    Args:
        name: Name of the table, of which labels are made: ``tab:NAME-1``.
        parts: Its floats.
        details: Sentences that are written as comments.
    """
    texts = [part.text(f"tab:{name}-{index}") for index, part in enumerate(parts, 1)]
    comments = "\n".join(f"% {' '.join(text.split())}" for text in details)
    return "\n\n".join([HEADER, *texts, *filter(None, [comments])]) + "\n"
