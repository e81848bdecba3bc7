"""``metrics.jsonl``: one object per record, written and read here alone.

The file may be damaged, or somebody else's: every line is checked. A run that is training, or was
killed, may leave the beginning of a line at the end, which is left out.
"""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from rotograd_cli.errors import DatasetError, first_line

logger = logging.getLogger(__name__)

RECORDS = "metrics.jsonl"
"""Name of the file in a run directory; checkpoints remember its length."""
Record = dict[str, float | None]
"""``step``, ``epoch`` and values by key; None for a value that is not finite."""

_RECORD = TypeAdapter(Record, config=ConfigDict(strict=True))


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
    with path.open("rb") as file, suppress(ValueError, KeyError, TypeError):
        file.seek(start)
        step: float = json.loads(file.readline())["step"]
        return step
    return None


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
    except DatasetError:  # is an OSError too
        raise
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
