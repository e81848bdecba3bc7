"""Prepared data: rows of fixed size in memory-mapped files, written once, read by index.

A data set whose files are slow to read (JPEG images, one file per frame) decodes them once with
:meth:`PreparedArrays.fill`. The folder is named by a hash of the settings that decide its content,
so that other settings never meet old rows. A row belongs to its source files, of which it keeps
name, size, time and checksum (:mod:`rotograd_cli.data.sources`): a file that changes afterwards is
noticed, and its row alone is made again. Rows are marked done after they have reached the disk: an
interrupted preparation goes on where it stopped, and a subset of the rows can be prepared first.
"""

import hashlib
import json
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rotograd_cli.data.row_files import MANIFEST, Field, lengthen, load, locked, make_folder
from rotograd_cli.data.sources import RECORD, Comparison, Reader, compare
from rotograd_cli.data.wording import readable
from rotograd_cli.errors import DatasetError

SourceFiles = tuple[str, ...]
"""Files that a row is made from, relative to the folder of the sources; the first names the row."""
Make = Callable[[SourceFiles, Callable[[str], bytes]], Mapping[str, np.ndarray]]
"""Makes the arrays of a row from the names of its files and a function that reads one of them."""
Progress = Callable[[int, int], None]
"""Takes how many are done, and how many there are."""

_CHUNK = 32  # rows that a thread makes at a time
_COMMIT_S = 2.0  # seconds of work that an interruption can lose


def ignore(done: int, total: int) -> None:
    """Report to nobody."""
    del done, total


class PreparedArrays:
    """Arrays with the same number of rows in one folder, and which rows are done.

    Args:
        folder: Folder that :meth:`create` made.
        writable: Whether rows will be written.

    Raises:
        DatasetError: If the folder is absent or damaged.
    """

    def __init__(self, folder: Path, *, writable: bool = False) -> None:
        self.folder = folder
        mode = "r+" if writable else "r"
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.settings: dict[str, Any] = manifest["settings"]
            self.fields = {k: Field(tuple(f["shape"]), f["dtype"]) for k, f in manifest["fields"]}
            num_rows = int(manifest["num_rows"])
            self._maps = {name: load(folder, name, mode, num_rows) for name in self.fields}
            self._done = load(folder, "done", mode, num_rows)
            self._checksums = load(folder, "checksums", mode, num_rows)
            self._sources = load(folder, "sources", mode, num_rows)
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

    @classmethod
    def create(
        cls,
        root: Path,
        settings: Mapping[str, Any],
        fields: Mapping[str, Field],
        files: Sequence[SourceFiles],
    ) -> "PreparedArrays":
        """Open the folder for writing, with a row for each of the files.

        Folder and rows are added where they are absent; new rows are not done.

        Args:
            root: Folder of the prepared folders; made if absent.
            settings: Plain values that decide the content of the rows.
            fields: The arrays by name.
            files: Source files of every row, equally many for each.

        Raises:
            DatasetError: If the folder cannot be written, or another process is preparing it.
        """
        folder = cls.locate(root, settings)
        try:
            if not folder.is_dir():
                make_folder(folder, settings, fields, len(files[0]))
            if (cls(folder).rows_of(files) < 0).any():
                _add_rows(folder, files)
        except DatasetError:
            raise
        except OSError as error:
            raise DatasetError(
                f"The prepared data cannot be written to {root} ({error.strerror}); set "
                "paths.data_dir to a writable folder."
            ) from error
        return cls(folder, writable=True)

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

    def fill(
        self,
        rows: Sequence[int] | np.ndarray,
        make: Make,
        *,
        source: Path,
        workers: int,
        progress: Progress = ignore,
    ) -> None:
        """Make those of the given rows that are not done, in threads.

        Finished rows are kept whatever happens: a second call makes the rest.

        Args:
            rows: Rows to have.
            make: Makes the content of a row. It must read all its files.
            source: Folder of the source files.
            workers: Number of threads.
            progress: Takes how many of the given rows are done, and how many were given.

        Raises:
            DatasetError: If another process is filling the folder, the disk has not enough space,
                or ``make`` raises it.
        """
        with locked(self.folder), ThreadPoolExecutor(workers) as pool:
            missing = np.asarray(rows, np.int64)[~self.is_done(rows)]
            self._check_space(len(missing))
            chunks = [missing[i : i + _CHUNK] for i in range(0, len(missing), _CHUNK)]
            futures = [pool.submit(self._write, chunk, make, source) for chunk in chunks]
            try:
                self._commit_regularly(futures, lambda: progress(self._num_done(rows), len(rows)))
            finally:
                for future in futures:
                    future.cancel()
                pool.shutdown()
                self._commit(futures)  # also what other threads were making
                progress(self._num_done(rows), len(rows))

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
            source: Folder of the source files.
            thorough: Read every file, even if its size and time are as they were.
        """
        chosen = np.asarray(rows, np.int64)
        return compare(chosen, np.array(self._sources[chosen]), source, thorough=thorough)

    def remember_times(self, comparison: Comparison) -> None:
        """Record the times of touched files, so that they are not read again."""
        times = self._sources["mtime_ns"]
        rows = comparison.rows
        times[rows] = np.where(comparison.is_touched, comparison.times, times[rows])
        _flush(self._sources)

    def forget(self, rows: Sequence[int] | np.ndarray) -> None:
        """Mark rows as not done, so that :meth:`fill` makes them again."""
        self._done[np.asarray(rows, np.int64)] = False
        _flush(self._done)

    def fingerprint(self, rows: Sequence[int] | np.ndarray) -> str:
        """First 16 hexadecimal digits of a hash of the settings and of the rows' content."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self._checksums[np.asarray(rows, np.int64)]).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _row_by_name(self) -> dict[str, int]:
        names = self._sources["name"][:, 0].tolist()
        return {name.decode(): row for row, name in enumerate(names)}

    def _num_done(self, rows: Sequence[int] | np.ndarray) -> int:
        return int(np.count_nonzero(self.is_done(rows)))

    def _write(self, rows: np.ndarray, make: Make, source: Path) -> np.ndarray:
        for row in rows:
            files = self.files_of(row)
            reader = Reader(source)
            content = make(files, reader.read)
            assert [name.decode() for name, *_ in reader.records] == list(files)
            for name, array in self._maps.items():
                assert content[name].shape == array.shape[1:]  # never broadcast
                array[row] = content[name]
            self._checksums[row] = self._checksum(int(row))
            self._sources[row] = np.array(reader.records, RECORD)
        return rows

    def _commit_regularly(
        self, futures: Sequence[Future[np.ndarray]], report: Callable[[], None]
    ) -> None:
        report()
        last = time.monotonic()
        for future in as_completed(futures):
            future.result()
            if time.monotonic() - last > _COMMIT_S:
                self._commit(futures)
                report()
                last = time.monotonic()

    def _commit(self, futures: Sequence[Future[np.ndarray]]) -> None:
        """Mark the rows that have been written as done once they are on the disk."""
        # what is written from here on may not reach the disk with this call
        ended = [future for future in futures if future.done() and not future.cancelled()]
        written = [future.result() for future in ended if future.exception() is None]
        for array in (*self._maps.values(), self._checksums, self._sources):
            _flush(array)
        for rows in written:
            self._done[rows] = True
        _flush(self._done)

    def _check_space(self, num_rows: int) -> None:
        # Rows that were never written take no space yet: the files are sparse. A full disk would
        # kill the process, as writing to a memory map cannot fail in another way.
        needed = num_rows * self.row_bytes
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DatasetError(
                f"The prepared data need {readable(needed)} in {self.folder.parent}, "
                f"{readable(free)} are free; make room, or set paths.data_dir to another disk."
            )

    def _checksum(self, row: int) -> int:
        value = 0
        for array in self._maps.values():
            value = zlib.crc32(np.ascontiguousarray(array[row]).tobytes(), value)
        return value


def _flush(array: np.ndarray) -> None:
    assert isinstance(array, np.memmap)
    array.flush()


def _add_rows(folder: Path, files: Sequence[SourceFiles]) -> None:
    """Add a row, not done, for each of the files that has none; the manifest comes last."""
    with locked(folder):
        arrays = PreparedArrays(folder)
        new = [row for row, number in zip(files, arrays.rows_of(files), strict=True) if number < 0]
        num_rows = len(arrays) + len(new)
        for name in (*arrays.fields, "done", "checksums", "sources"):
            lengthen(folder / f"{name}.npy", num_rows)
        sources = load(folder, "sources", "r+", num_rows)
        sources["name"][len(arrays) :] = [[name.encode() for name in row] for row in new]
        _flush(sources)
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        temporary = folder / f".{MANIFEST}"
        temporary.write_text(json.dumps({**manifest, "num_rows": num_rows}, indent=1), "utf-8")
        temporary.replace(folder / MANIFEST)
