"""``metrics.jsonl``: one object per record."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class JsonlTracker:
    """Appends records to a file, each flushed, so that a killed run keeps what it wrote.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def log(self, record: Mapping[str, float]) -> None:
        """Writes one line. Infinite and NaN values become null: JSON has neither."""
        finite = {key: value if math.isfinite(value) else None for key, value in record.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Closes the file."""
        del summary
        self._file.close()
