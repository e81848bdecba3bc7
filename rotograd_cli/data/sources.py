"""The files that prepared rows were made from: names, sizes, times and checksums.

A row is stale when one of its files has other content now. Size and time are looked at first, so
that the files of a large data set cost a system call each; a checksum is computed where only the
time differs, since copying or touching a file changes nothing.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RECORD = np.dtype([("name", "S32"), ("size", "<i8"), ("mtime_ns", "<i8"), ("checksum", "<u8")])
"""What is known of a file; its name is relative to the folder of the sources, with slashes."""
_STATUS = np.dtype([("size", "<i8"), ("mtime_ns", "<i8")])
_ABSENT = -1  # as a size


class Reader:
    """Reads the files of one row and keeps a record of each.

    Args:
        folder: Folder of the sources.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.records: list[tuple[bytes, int, int, int]] = []

    def read(self, name: str) -> bytes:
        """Content of a file.

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
    """Files that rows were made from beside those that are there."""

    rows: np.ndarray
    """int64, shape ``[N]``."""
    names: np.ndarray
    """Of their files, shape ``[N, F]``."""
    is_changed: np.ndarray
    """Whether a file is there with other content, bool, shape ``[N, F]``."""
    is_missing: np.ndarray
    """Whether a file is not there, likewise."""
    is_touched: np.ndarray
    """Whether a file has the same content and another time, likewise."""
    times: np.ndarray
    """Of the files that are there, in nanoseconds, likewise."""

    @property
    def changed(self) -> list[str]:
        """Names of the files with other content."""
        return [name.decode() for name in self.names[self.is_changed]]

    @property
    def missing(self) -> list[str]:
        """Names of the files that are not there."""
        return [name.decode() for name in self.names[self.is_missing]]

    def rows_with(self, mask: np.ndarray) -> np.ndarray:
        """Rows of which a file is marked."""
        result: np.ndarray = self.rows[mask.any(1)]
        return result


def compare(rows: np.ndarray, records: np.ndarray, folder: Path, *, thorough: bool) -> Comparison:
    """Looks at the files of rows again.

    Args:
        rows: int64, shape ``[N]``.
        records: Of their files, :data:`RECORD`, shape ``[N, F]``.
        folder: Folder of the sources.
        thorough: Whether files are read even where size and time are as they were.

    Returns:
        What was found.
    """
    paths = [os.path.join(folder, name.decode()) for name in records["name"].ravel()]
    there = np.array([_status(path) for path in paths], _STATUS).reshape(records.shape)
    missing = there["size"] == _ABSENT
    changed = ~missing & (there["size"] != records["size"])
    other_time = ~missing & (there["mtime_ns"] != records["mtime_ns"])
    doubtful = ~missing & ~changed & (other_time | thorough)
    found = _checksums([paths[i] for i in np.flatnonzero(doubtful)])
    changed[doubtful] = found != records["checksum"][doubtful]
    touched = other_time & ~changed
    return Comparison(rows, records["name"], changed, missing, touched, there["mtime_ns"])


def _status(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return _ABSENT, 0
    return status.st_size, status.st_mtime_ns


def _checksums(paths: Sequence[str]) -> np.ndarray:
    with ThreadPoolExecutor() as pool:  # a disk is fastest with several requests at a time
        return np.fromiter(pool.map(_checksum_of, paths), "<u8", len(paths))


def _checksum_of(path: str) -> int:
    try:
        return _checksum(Path(path).read_bytes())
    except OSError:  # whoever reads it next says why
        return 0


def _checksum(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
