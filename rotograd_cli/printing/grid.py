"""A table of texts, which every output format renders."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


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

    def blocks(self, width: int) -> list["Grid"]:
        """Cut the grid into at least one grid of the first column and at most ``width`` others."""
        starts = range(1, max(len(self.heads), 2), width)
        ends = [min(start + width, len(self.heads)) for start in starts]
        return [
            self.select([0, *range(start, end)]) for start, end in zip(starts, ends, strict=True)
        ]
