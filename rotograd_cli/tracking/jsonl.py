"""``metrics.jsonl``: one object per record."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class JsonlTracker:
    """Appends records to a file, each flushed, so that a killed run keeps what it wrote.

    Args:
        path: The file.
        size: Bytes of it that count; what a killed run wrote after its last checkpoint is cut off,
            because it will be written again.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self._file = path.open("a", encoding="utf-8")
        found = os.path.getsize(path)
        if found < size:
            logger.warning("%s lacks records: %d of %d bytes are there.", path, found, size)
        self._file.truncate(min(size, found))

    def log(self, record: Mapping[str, float]) -> None:
        """Writes one line. Infinite and NaN values become null: JSON has neither."""
        finite = {key: value if math.isfinite(value) else None for key, value in record.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()

    def position(self) -> int:
        """Bytes written, on disk before this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Closes the file."""
        del summary
        self._file.close()
