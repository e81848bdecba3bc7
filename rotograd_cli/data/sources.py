"""The files that prepared rows were made from: name, size, time and checksum of each.

A row is stale once one of its files has other content. Comparing size and time costs one system
call per file; a checksum is computed only where the time alone differs, because copying or touching
a file changes nothing.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RECORD = np.dtype([("name", "S32"), ("size", "<i8"), ("mtime_ns", "<i8"), ("checksum", "<u8")])
"""Record of a file; its name is relative to the folder of the sources, with slashes."""
_STATUS = np.dtype([("size", "<i8"), ("mtime_ns", "<i8")])
_ABSENT = (-1, 0)  # status of a file that is not there


class Reader:
    """Read the files of one row and keep a record of each.

    Args:
        folder: Folder of the sources.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.records: list[tuple[bytes, int, int, int]] = []

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            OSError: If it cannot be read.
        """
        with (self._folder / name).open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
        self.records.append((name.encode(), len(content), status.st_mtime_ns, _checksum(content)))
        return content


@dataclass(frozen=True)
class Comparison:
    """Recorded files of N rows, F each, beside the files that are there now."""

    rows: np.ndarray
    """int64, shape ``[N]``."""
    names: np.ndarray
    """Names of the files, shape ``[N, F]``."""
    is_changed: np.ndarray
    """Whether a file is there with other content, bool, shape ``[N, F]``."""
    is_touched: np.ndarray
    """Whether a file has the same content and another time, likewise."""
    times: np.ndarray
    """Times of the files that are there, in nanoseconds, likewise."""

    @property
    def changed(self) -> list[str]:
        """Names of the files with other content."""
        return [name.decode() for name in self.names[self.is_changed]]

    @property
    def changed_rows(self) -> np.ndarray:
        """Rows with a changed file."""
        result: np.ndarray = self.rows[self.is_changed.any(1)]
        return result


def compare(rows: np.ndarray, records: np.ndarray, folder: Path, *, thorough: bool) -> Comparison:
    """Compare the files of rows with their records.

    Args:
        rows: int64, shape ``[N]``.
        records: Records of their files, :data:`RECORD`, shape ``[N, F]``.
        folder: Folder of the sources. Files that are not there count as unchanged.
        thorough: Read every file, even if its size and time are those of the record.
    """
    paths = [os.path.join(folder, name.decode()) for name in records["name"].ravel()]
    status = np.array([_status(path) for path in paths], _STATUS).reshape(records.shape)
    is_there = status["size"] >= 0
    has_size = status["size"] == records["size"]
    has_other_time = is_there & (status["mtime_ns"] != records["mtime_ns"])
    is_doubtful = has_size & (has_other_time | thorough)
    is_changed = is_there & ~has_size
    checksums = _checksums([paths[i] for i in np.flatnonzero(is_doubtful)])
    is_changed[is_doubtful] = checksums != records["checksum"][is_doubtful]
    is_touched = has_other_time & ~is_changed
    return Comparison(rows, records["name"], is_changed, is_touched, status["mtime_ns"])


def _status(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return _ABSENT
    return status.st_size, status.st_mtime_ns


def _checksums(paths: Sequence[str]) -> np.ndarray:
    with ThreadPoolExecutor() as pool:  # a disk is fastest with several requests at a time
        return np.fromiter(pool.map(_checksum_of, paths), "<u8", len(paths))


def _checksum_of(path: str) -> int:
    try:
        return _checksum(Path(path).read_bytes())
    except OSError:  # reported by whatever reads the file next
        return 0


def _checksum(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
