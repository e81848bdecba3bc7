"""A grid as a Markdown table."""

import re
from collections.abc import Iterable

from rotograd_cli.printing.grid import Entry, Grid


def markdown_table(grid: Grid) -> str:
    """Return the rows of a Markdown table: the best value bold, the second best italic."""
    num_numbers = len(grid.heads) - grid.num_labels
    lines = [
        _row(escape_markdown(head) for head in grid.heads),
        _row(["---"] * grid.num_labels + ["---:"] * num_numbers),
        *(_row(_marked(entry) for entry in row) for row in grid.rows),
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


def _marked(entry: Entry) -> str:
    mark = {1: "**", 2: "*", None: ""}[entry.rank]
    return f"{mark}{escape_markdown(entry.text)}{mark}"
