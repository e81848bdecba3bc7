"""Why a row does not have what a figure draws, and what helps."""

from collections.abc import Callable, Sequence

from rotograd_cli.errors import ConfigError, listed
from rotograd_cli.tables.rows import Row, Rows

ALWAYS = "/grad_norm"
"""End of a key that every method records with diagnostics."""


def rows_with(
    rows: Rows, has: Callable[[Row], bool], figure: str, what: str
) -> tuple[list[Row], list[str]]:
    """Return the rows that have what a figure draws, and a note for each of the others.

    Args:
        rows: Rows.
        has: Whether a row has it.
        figure: Name of the figure.
        what: What is drawn, in words.

    Raises:
        ConfigError: If none has it.
    """
    drawn = [row for row in rows.rows if has(row)]
    others = [row for row in rows.rows if row not in drawn]
    if not drawn:
        raise ConfigError(f"Figure {figure!r} has nothing to draw: {_why(others, what)}.")
    return drawn, [f"Left out, {row.label}: {_why([row], what)}." for row in others]


def _why(rows: Sequence[Row], what: str) -> str:
    """Return the reason in words: first that runs lack diagnostics, which training again mends."""
    without = [str(row.histories[0].run.folder) for row in rows if not _has_diagnostics(row)]
    if without:
        return (
            f"{listed(without, 1)} recorded no diagnostics (diagnostics=off, or an earlier "
            "version); train again with diagnostics=basic"
        )
    return f"no {what} in the records of {listed([row.label for row in rows])}"


def _has_diagnostics(row: Row) -> bool:
    return any(key.endswith(ALWAYS) for history in row.histories for key in history.columns)
