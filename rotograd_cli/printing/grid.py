"""A table of texts, on the terminal and in Markdown."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rotograd_cli.printing.streams import encodable

PIPE_WIDTH = 160
"""Columns of an output that is no terminal and has no COLUMNS."""
_STEP = 4
"""Characters by which the parts of a grid are made narrower until there would be more of them."""
STYLES = {1: "bold green", 2: "underline", None: ""}
SUFFIXES = {1: " (1)", 2: " (2)", None: ""}
"""Ranks without colour: in a file, a pipe, or for a reader who does not see it."""


@dataclass(frozen=True)
class Entry:
    """The text of one cell."""

    text: str
    rank: int | None = None
    """1 for the best value of its column, 2 for the second best."""


@dataclass(frozen=True)
class Grid:
    """A table of texts; rows are as long as ``heads``."""

    title: str
    heads: list[str]
    rows: list[list[Entry]]
    num_labels: int = 1
    """Leading columns that name things and are aligned left; the others are aligned right."""

    @classmethod
    def of_texts(
        cls, heads: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", labels: int = 1
    ) -> "Grid":
        """Return a grid without ranks."""
        return cls(title, list(heads), [[Entry(text) for text in row] for row in rows], labels)

    def select(self, indices: Sequence[int]) -> "Grid":
        """Return the grid of some of the columns, in the order of ``indices``."""
        rows = [[row[index] for index in indices] for row in self.rows]
        num_labels = sum(index < self.num_labels for index in indices)
        return Grid(self.title, [self.heads[index] for index in indices], rows, num_labels)

    def with_broken_heads(self) -> "Grid":
        """Return the grid with heads on several lines, hardly wider than what is below them."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.heads)
        widths = [max((_length(entry) for entry in column), default=0) for column in columns]
        heads = [broken(head, width) for head, width in zip(self.heads, widths, strict=True)]
        return replace(self, heads=heads)

    def blocks(self, width: int) -> list["Grid"]:
        """Cut the grid into at least one grid of the first column and at most ``width`` others."""
        starts = range(1, max(len(self.heads), 2), width)
        ends = [min(start + width, len(self.heads)) for start in starts]
        return [
            self.select([0, *range(start, end)]) for start, end in zip(starts, ends, strict=True)
        ]

    def lines(self) -> list[str]:
        """Return heads and rows as plain lines: columns aligned left, two blanks apart."""
        texts = [self.heads, *([entry.text for entry in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        padded = [[f"{t:{w}}" for t, w in zip(row, widths, strict=True)] for row in texts]
        return ["  ".join(row).rstrip() for row in padded]

    def markdown(self) -> str:
        """Return the rows of a Markdown table: the best value bold, the second best italic."""
        num_numbers = len(self.heads) - self.num_labels
        lines = [
            _row(escape_markdown(head) for head in self.heads),
            _row(["---"] * self.num_labels + ["---:"] * num_numbers),
            *(_row(_markdown(entry) for entry in row) for row in self.rows),
        ]
        return "\n".join(lines)


def escape_markdown(text: str) -> str:
    r"""Escape what Markdown would read as formatting; line breaks become blanks.

    Examples:
        >>> escape_markdown("A_b | [x]")
        'A\\_b \\| \\[x\\]'
    """
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def broken(text: str, width: int) -> str:
    """Break a text at blanks and after ``.``, ``_`` and ``/``.

    Args:
        text: Words without line breaks.
        width: Characters of a line; a part that cannot be broken may be longer, and then the others
            may be as long.

    Examples:
        >>> broken("model_optimizer.lr", 8).splitlines()
        ['model_', 'optimizer.', 'lr']
    """
    parts = re.findall(r" ?[^ ._/]*[._/]?", text)
    longest = max(len(part.strip()) for part in parts)
    lines = [""]
    for part in parts:
        if len(lines[-1]) + len(part) > max(width, longest):
            lines.append("")
        lines[-1] += part if lines[-1] else part.lstrip()
    return "\n".join(lines)


def _length(entry: Entry) -> int:
    return max(map(len, f"{entry.text}{SUFFIXES[entry.rank]}".split("\n")))


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _markdown(entry: Entry) -> str:
    mark = {1: "**", 2: "*", None: ""}[entry.rank]
    return f"{mark}{escape_markdown(entry.text)}{mark}"


def print_grid(grid: Grid) -> None:
    """Print a grid to standard output, complete even where the terminal is narrow."""
    has_width = Console().is_terminal or "COLUMNS" in os.environ
    # without markup: the brackets of tasks=[left,right] are no style
    console = Console(highlight=False, markup=False, width=None if has_width else PIPE_WIDTH)
    for part in fitting(grid, console):
        console.print(part)


def fitting(grid: Grid, console: Console) -> list[Table]:
    """Cut a grid that is too wide for a terminal into several tables.

    Args:
        grid: Table of texts.
        console: Where it will be printed.

    Returns:
        Tables in characters that the terminal has, the first one with the title. A grid that is too
        wide is printed without vertical lines, and its heads are broken. If that is too wide as
        well, it is cut; each table repeats the first column, and none is wider than the terminal,
        unless two columns are.
    """
    table = _rich(grid, console)
    if _width(table, console) <= console.width:
        table.title = _text(grid.title, console)
        return [table]
    narrow = grid.with_broken_heads()
    tables = [_compact(part, console) for part in _balanced(narrow, console)]
    tables[0].title = _text(grid.title, console)
    return tables


def _balanced(grid: Grid, console: Console) -> list[Grid]:
    """Cut a grid into as few parts as fit, none much wider than the others."""
    parts = _cut(grid, console, console.width)
    for width in range(console.width, 0, -_STEP):
        narrower = _cut(grid, console, width)
        if len(narrower) > len(parts):
            break
        parts = narrower
    return parts


def _cut(grid: Grid, console: Console, width: int) -> list[Grid]:
    first, *others = range(len(grid.heads))
    parts = [[first]]
    for index in others:
        part = parts[-1]
        wider = _compact(grid.select([*part, index]), console)
        if _width(wider, console) > width and len(part) > 1:
            parts.append([first])
        parts[-1].append(index)
    return [grid.select(part) for part in parts]


def _width(table: Table, console: Console) -> int:
    unlimited = console.options.update(width=10_000)
    return console.measure(table, options=unlimited).maximum


def _compact(grid: Grid, console: Console) -> Table:
    table = _rich(grid, console)
    table.box = box.HORIZONTALS
    table.padding = (0, 1, 0, 0)
    table.pad_edge = False
    return table


def _rich(grid: Grid, console: Console) -> Table:
    table = Table()
    for index, head in enumerate(grid.heads):
        # folded where two columns are too wide: nothing is left out
        is_label = index < grid.num_labels
        table.add_column(
            _text(head, console), justify="left" if is_label else "right", overflow="fold"
        )
    for row in grid.rows:
        texts = [(f"{entry.text}{SUFFIXES[entry.rank]}", STYLES[entry.rank]) for entry in row]
        table.add_row(*(_text(text, console, style) for text, style in texts))
    return table


def _text(text: str, console: Console, style: str = "") -> Text:
    """A text in the characters of the terminal, so that widths are measured of what is printed."""
    return Text(encodable(text, console.encoding), style=style)
