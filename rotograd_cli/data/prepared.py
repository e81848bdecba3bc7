"""Prepared data: rows of fixed size in memory-mapped files, written once, read by index.

A data set whose files are slow to read (JPEG images, one file per frame) decodes them once
(:mod:`rotograd_cli.data.filling`). The folder is named by a hash of the settings that decide its
content, so that other settings never meet old rows. A row belongs to its source files, of which it
keeps name, size, time and checksum: a file that changes afterwards is noticed, and its row alone is
made again. Comparing size and time costs one system call per file; a checksum is computed only
where the time alone differs, because copying or touching a file changes nothing. Rows are marked
done after they have reached the disk: an interrupted preparation goes on where it stopped, and a
subset can be prepared first.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rotograd_cli.errors import DatasetError

SourceFiles = tuple[str, ...]
"""Files that a row is made from, relative to the folder of the sources; the first names the row."""
Progress = Callable[[int, int], None]
"""Takes how many are done, and how many there are."""
MANIFEST = "manifest.json"
RECORD = np.dtype([("name", "S32"), ("size", "<i8"), ("mtime_ns", "<i8"), ("checksum", "<u8")])
"""Record of a source file; its name is relative to the folder of the sources, with slashes."""
_STATUS = np.dtype([("size", "<i8"), ("mtime_ns", "<i8")])


@dataclass(frozen=True)
class Field:
    """Shape and type of one array's rows."""

    shape: tuple[int, ...]
    dtype: str
    """NumPy's name of the type."""

    @property
    def num_bytes(self) -> int:
        """Size of a row."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


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


def ignore(done: int, total: int) -> None:
    """Report to nobody."""
    del done, total


class PreparedArrays:
    """Arrays with the same number of rows in one folder, and which rows are done.

    Args:
        folder: Folder that :meth:`WritableArrays.create` made.

    Raises:
        DatasetError: If the folder is absent or damaged.
    """

    _mode: ClassVar[str] = "r"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.settings: dict[str, Any] = manifest["settings"]
            self.fields = {k: Field(tuple(f["shape"]), f["dtype"]) for k, f in manifest["fields"]}
            num_rows = int(manifest["num_rows"])
            self._maps = {name: load(folder, name, self._mode, num_rows) for name in self.fields}
            self._done = load(folder, "done", self._mode, num_rows)
            self._checksums = load(folder, "checksums", self._mode, num_rows)
            self._sources = load(folder, "sources", self._mode, num_rows)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"The prepared data in {folder} cannot be read ({error}); delete this folder and "
                "prepare the data again."
            ) from error

    @staticmethod
    def locate(root: Path, settings: Mapping[str, Any]) -> Path:
        """Return the folder of rows with these settings; it may not exist.

        Args:
            root: Folder of the prepared folders.
            settings: Plain values that decide the content of the rows.
        """
        text = json.dumps(settings, sort_keys=True)
        return root / hashlib.sha256(text.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._done)

    @property
    def row_bytes(self) -> int:
        """Size of a row on disk."""
        return sum(field.num_bytes for field in self.fields.values())

    def rows_of(self, files: Sequence[SourceFiles]) -> np.ndarray:
        """Rows of source files, int64, in order; -1 for files that have none."""
        numbers = (self._row_by_name.get(row[0], -1) for row in files)
        return np.fromiter(numbers, np.int64, len(files))

    def is_done(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Whether rows can be read, bool; row -1 cannot."""
        chosen = np.asarray(rows, np.int64)
        result: np.ndarray = chosen >= 0
        result[result] = self._done[chosen[result]]
        return result

    def files_of(self, row: int) -> SourceFiles:
        """Source files of a row."""
        return tuple(name.decode() for name in self._sources[row]["name"].tolist())

    def done_files(self) -> list[str]:
        """The first source file of every row that is done."""
        return [name.decode() for name in self._sources["name"][self._done, 0].tolist()]

    def take(self, name: str, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Copy rows of one array; other threads run meanwhile.

        Args:
            name: The array.
            rows: int64, shape ``[N]``.
            out: Destination, shape ``[N, *shape]``; None makes a new array.
        """
        result: np.ndarray = np.take(self._maps[name], rows, axis=0, out=out, mode="clip")
        return result

    def damaged(self, rows: Sequence[int] | np.ndarray, progress: Progress = ignore) -> list[int]:
        """Rows among the given ones, all done, whose content does not match its checksum.

        Args:
            rows: Rows to read.
            progress: Takes how many have been read, and how many there are.
        """
        result = []
        for position, row in enumerate(rows):
            if self._checksum(int(row)) != self._checksums[row]:
                result.append(int(row))
            if position % 1000 == 0 or position == len(rows) - 1:
                progress(position + 1, len(rows))
        return result

    def compare(
        self, rows: Sequence[int] | np.ndarray, source: Path, *, thorough: bool = False
    ) -> Comparison:
        """Compare the files that rows were made from with those that are there.

        Args:
            rows: Rows, all done.
            source: Folder of the source files. Files that are not there count as unchanged.
            thorough: Read every file, even if its size and time are as they were.
        """
        chosen = np.asarray(rows, np.int64)
        records = np.array(self._sources[chosen])
        paths = [os.path.join(source, name.decode()) for name in records["name"].ravel()]
        status = np.array([_status(path) for path in paths], _STATUS).reshape(records.shape)
        is_there = status["size"] >= 0
        has_size = status["size"] == records["size"]
        has_other_time = is_there & (status["mtime_ns"] != records["mtime_ns"])
        is_doubtful = has_size & (has_other_time | thorough)
        is_changed = is_there & ~has_size
        checksums = _checksums([paths[i] for i in np.flatnonzero(is_doubtful)])
        is_changed[is_doubtful] = checksums != records["checksum"][is_doubtful]
        is_touched = has_other_time & ~is_changed
        return Comparison(chosen, records["name"], is_changed, is_touched, status["mtime_ns"])

    def fingerprint(self, rows: Sequence[int] | np.ndarray) -> str:
        """First 16 hexadecimal digits of a hash of the settings and of the rows' content."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self._checksums[np.asarray(rows, np.int64)]).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _row_by_name(self) -> dict[str, int]:
        names = self._sources["name"][:, 0].tolist()
        return {name.decode(): row for row, name in enumerate(names)}

    def _checksum(self, row: int) -> int:
        value = 0
        for array in self._maps.values():
            value = zlib.crc32(np.ascontiguousarray(array[row]).tobytes(), value)
        return value


def load(folder: Path, name: str, mode: Any, num_rows: int) -> np.ndarray:
    """Map the first rows of an array into memory.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it has fewer rows, or is no array.
    """
    array: np.ndarray = np.load(folder / f"{name}.npy", mmap_mode=mode)
    if len(array) < num_rows:
        raise ValueError("files of different lengths")
    return array[:num_rows]  # longer where a process was killed while it added rows


def read_source(folder: Path, name: str) -> tuple[bytes, tuple[bytes, int, int, int]]:
    """Return the content of a source file, and its record (:data:`RECORD`).

    Args:
        folder: Folder of the sources.
        name: The file, relative to it.

    Raises:
        DatasetError: If it cannot be read.
    """
    try:
        with (folder / name).open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
    except OSError as error:
        raise DatasetError(
            f"{folder / name} must be a readable file, got {error.strerror}; get it again."
        ) from error
    return content, (name.encode(), len(content), status.st_mtime_ns, _checksum(content))


def _status(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, 0
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
