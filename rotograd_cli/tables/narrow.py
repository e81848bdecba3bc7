"""The list of runs on a terminal that is too narrow for a line per run."""

from collections.abc import Sequence

from rotograd_cli.printing.grid import Grid

BELOW = ("what differs", "folder")
"""Columns that get lines of their own below the run's, in this order."""
_DROPPED = ("data", "method")
"""Columns that are left out of a line that is still too long, in this order: folders name both."""
_INDENT = "  "


def fitted(grid: Grid, width: int | None) -> list[str]:
    """Return the lines of a list of runs.

    Args:
        grid: The list, whose last column is the folder.
        width: Columns of the terminal; None for a file or a pipe, which gets a line per run.

    Returns:
        A line per run where the widest fits. Otherwise what differs and the folder stand below the
        run's line; what differs is cut at the edge, and a folder, which one copies, never is.
    """
    lines = grid.lines()
    if width is None or max(map(len, lines)) <= width:
        return lines
    kept = [head for head in grid.heads if head not in BELOW]
    lines = _selected(grid, kept).lines()
    for head in _DROPPED:
        if max(map(len, lines)) > width:
            kept.remove(head)
            lines = _selected(grid, kept).lines()
    below = _selected(grid, BELOW).rows
    result = lines[:1]
    for line, (difference, folder) in zip(lines[1:], below, strict=True):
        result.append(line)
        if difference.text:
            result.append(_cut(f"{_INDENT}{difference.text}", width))
        result.append(f"{_INDENT}{folder.text}")
    return result


def _selected(grid: Grid, heads: Sequence[str]) -> Grid:
    return grid.select([grid.heads.index(head) for head in heads])


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
