"""``metrics.jsonl``: one object per record."""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

RECORDS = "metrics.jsonl"
"""File of the records in a run directory, whose length checkpoints remember."""


class JsonlTracker:
    """Append records to a file, each flushed, so that a killed run keeps what it wrote.

    Args:
        path: The file.
        size: Bytes to keep. What a killed run wrote after its last checkpoint is cut off, because
            the resumed run writes it again.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")
        actual = os.path.getsize(path)
        if actual < size:
            logger.warning("%s lacks records: %d of %d bytes are there.", path, actual, size)
        self.dropped_from = _first_step(path, size)
        """Step of the first record that was cut off; None where nothing was."""
        self._file.truncate(min(size, actual))

    def log(self, record: Mapping[str, float]) -> None:
        """Write one line. Infinite and NaN values become null: JSON has neither."""
        finite = {key: value if math.isfinite(value) else None for key, value in record.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()

    def position(self) -> int:
        """Return the number of bytes written, after they are on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the file."""
        self._file.close()


def _first_step(path: Path, start: int) -> float | None:
    """Return the step of the first record from a position on; None without one."""
    with suppress(ValueError, KeyError, TypeError):  # of a file that somebody edited
        return next((record["step"] for record in read_records(path, start)), None)
    return None


def read_records(path: Path, start: int = 0) -> Iterator[dict[str, float | None]]:
    """Read records in order; a last line that a killed process left unfinished is left out.

    Args:
        path: The file.
        start: Bytes to skip.

    Yields:
        The records; None stands for a value that was not finite.
    """
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
