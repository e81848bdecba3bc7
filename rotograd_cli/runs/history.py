"""What a run recorded while it trained, as columns."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rotograd_cli.errors import DatasetError
from rotograd_cli.tracking.jsonl import RECORDS, Record
from rotograd_cli.tracking.jsonl import records as records

if TYPE_CHECKING:
    import numpy as np


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
            if key not in history:
                history[key] = np.full(len(several), np.nan)
            history[key][row] = np.nan if value is None else value
    for column in history.values():
        column[np.isinf(column)] = np.nan
    return history


def evaluations(run_dir: Path) -> Iterator[Record]:
    """Yield the records that have an evaluation of the validation split, in order.

    Nothing where the file cannot be read; what follows a damaged line is left out.
    """
    with suppress(DatasetError):
        for record in records(run_dir):
            if any(key.startswith("val/") for key in record):
                yield record
