"""Why a row does not have what a figure draws, and what helps."""

from collections.abc import Callable

from rotograd_cli.errors import ConfigError, listed
from rotograd_cli.figures.rows import Row, Rows

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
    reasons = [f"{row.label}: {_why(row, what)}" for row in rows.rows if row not in drawn]
    if not drawn:
        raise ConfigError(f"Figure {figure!r} has nothing to draw; {listed(reasons)}.")
    return drawn, [f"Left out: {reason}." for reason in reasons]


def _why(row: Row, what: str) -> str:
    keys = {key for history in row.histories for key in history.columns}
    if any(key.endswith(ALWAYS) for key in keys):
        return f"no {what} in its records"
    return (
        f"{row.histories[0].run.folder} was run with diagnostics=off or by an earlier version, "
        "train it again with diagnostics=basic"
    )
