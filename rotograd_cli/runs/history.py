"""What a run recorded while it trained: ``metrics.jsonl``, read here alone.

The file may be damaged, or somebody else's: every line is checked. A run that is training, or was
killed, may leave the beginning of a line at the end, which is left out.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ConfigDict, TypeAdapter

from rotograd_cli.errors import DatasetError, first_line

if TYPE_CHECKING:
    import numpy as np

RECORDS = "metrics.jsonl"
"""Name of the file in a run directory."""
Record = dict[str, float | None]
"""``step``, ``epoch`` and values by key; None for a value that is not finite."""

_RECORD = TypeAdapter(Record, config=ConfigDict(strict=True))


def read_history(run_dir: Path | str) -> "dict[str, np.ndarray]":
    """Return what a run recorded, as columns.

    Args:
        run_dir: Run directory.

    Returns:
        A column per key, in the order of their first appearance: float64, shape ``[num_records]``,
        a row per record in the order of the file, and NaN where a record lacks the key or its
        value is not finite.

    Raises:
        DatasetError: If there is no file, it holds no record, or a line of it is damaged.
    """
    import numpy as np

    several = list(records(Path(run_dir)))
    if not several:
        raise DatasetError(
            f"{Path(run_dir) / RECORDS} must hold a record, got none; wait for the run's first "
            "logging step, or train it again."
        )
    history: dict[str, np.ndarray] = {}
    for row, record in enumerate(several):
        for key, value in record.items():
            column = history.setdefault(key, np.full(len(several), np.nan))
            column[row] = np.nan if value is None else value
    for column in history.values():
        column[np.isinf(column)] = np.nan
    return history


def records(run_dir: Path) -> Iterator[Record]:
    """Yield the records of a run in order.

    Args:
        run_dir: Run directory.

    Raises:
        DatasetError: If the file cannot be read, or a line is damaged; a last line without its
            end is left out.
    """
    path = run_dir / RECORDS
    try:
        with path.open(encoding="utf-8") as file:
            yield from _parsed(file, path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DatasetError(
            f"{path} cannot be read ({reason}); a run directory that rotograd train printed has it."
        ) from error


def _parsed(lines: Iterator[str], path: Path) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        try:
            yield _RECORD.validate_python(json.loads(line))
        except (ValueError, RecursionError) as error:
            if not line.endswith("\n"):  # still being written, or cut short by a kill
                return
            raise DatasetError(
                f"Line {number} of {path} must be an object of numbers, got {line.strip()[:40]!r}; "
                "restore the file, or train the run again."
            ) from error


def evaluations(run_dir: Path) -> Iterator[Record]:
    """Yield the records that have an evaluation of the validation split, in order.

    Nothing where the file cannot be read; what follows a damaged line is left out.
    """
    with suppress(DatasetError):
        for record in records(run_dir):
            if any(key.startswith("val/") for key in record):
                yield record
