"""Making prepared rows: in threads, resumable after any end, one process at a time."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from filelock import FileLock, Timeout

from rotograd_cli.data import prepared
from rotograd_cli.data.base import readable
from rotograd_cli.data.prepared import Comparison, Field, PreparedArrays, Progress, SourceFiles
from rotograd_cli.errors import DATA_ROOT, DatasetError
from rotograd_cli.files import replace_text

Make = Callable[[SourceFiles, Sequence[bytes]], Mapping[str, np.ndarray]]
"""Makes the arrays of a row from the names and contents of its files."""

_CHUNK = 32  # rows that a thread makes at a time
_COMMIT_S = 2.0  # seconds of work that an interruption can lose


class WritableArrays(PreparedArrays):
    """Prepared arrays whose rows can be added, made and forgotten."""

    _mode: ClassVar[str] = "r+"

    @classmethod
    def create(
        cls,
        root: Path,
        settings: Mapping[str, Any],
        fields: Mapping[str, Field],
        files: Sequence[SourceFiles],
    ) -> "WritableArrays":
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
                _make_folder(folder, settings, fields, len(files[0]))
            if (PreparedArrays(folder).rows_of(files) < 0).any():
                _add_rows(folder, files)
        except DatasetError:
            raise
        except OSError as error:
            raise DatasetError(
                f"The prepared data cannot be written to {root} ({error.strerror}); set "
                f"{DATA_ROOT} to a writable folder."
            ) from error
        return cls(folder)

    def fill(
        self,
        rows: Sequence[int] | np.ndarray,
        make: Make,
        *,
        source: Path,
        workers: int,
        progress: Progress = prepared.ignore,
    ) -> None:
        """Make those of the given rows that are not done, in threads.

        Finished rows are kept whatever happens: a second call makes the rest.

        Args:
            rows: Rows to have.
            make: Makes the content of a row.
            source: Folder of the source files.
            workers: Number of threads.
            progress: Takes how many of the given rows are done, and how many were given.

        Raises:
            DatasetError: If another process is filling the folder, the disk has not enough space,
                or ``make`` raises it.
        """
        with _locked(self.folder), ThreadPoolExecutor(workers) as pool:
            missing = np.asarray(rows, np.int64)[~self.is_done(rows)]
            self._check_space(len(missing))
            chunks = [missing[i : i + _CHUNK] for i in range(0, len(missing), _CHUNK)]
            futures = [pool.submit(self._write, chunk, make, source) for chunk in chunks]
            try:
                self._commit_regularly(futures, lambda: progress(self._num_done(rows), len(rows)))
            finally:
                pool.shutdown(cancel_futures=True)
                self._commit(futures)  # also what other threads were making
                progress(self._num_done(rows), len(rows))

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

    def _num_done(self, rows: Sequence[int] | np.ndarray) -> int:
        return int(np.count_nonzero(self.is_done(rows)))

    def _write(self, rows: np.ndarray, make: Make, source: Path) -> np.ndarray:
        for row in rows:
            files = self.files_of(row)
            sources = [prepared.read_source(source, name) for name in files]
            content = make(files, [content for content, _ in sources])
            for name, array in self._maps.items():
                assert content[name].shape == array.shape[1:]  # never broadcast
                array[row] = content[name]
            self._checksums[row] = self._checksum(int(row))
            self._sources[row] = np.array([record for _, record in sources], prepared.RECORD)
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
                f"{readable(free)} are free; make room, or set {DATA_ROOT} to another disk."
            )


def _flush(array: np.ndarray) -> None:
    assert isinstance(array, np.memmap)
    array.flush()


def _add_rows(folder: Path, files: Sequence[SourceFiles]) -> None:
    """Add a row, not done, for each of the files that has none; the manifest comes last."""
    with _locked(folder):
        arrays = PreparedArrays(folder)
        new = [row for row, number in zip(files, arrays.rows_of(files), strict=True) if number < 0]
        num_rows = len(arrays) + len(new)
        for name in (*arrays.fields, "done", "checksums", "sources"):
            _lengthen(folder / f"{name}.npy", num_rows)
        sources = prepared.load(folder, "sources", "r+", num_rows)
        sources["name"][len(arrays) :] = [[name.encode() for name in row] for row in new]
        _flush(sources)
        manifest = json.loads((folder / prepared.MANIFEST).read_text(encoding="utf-8"))
        replace_text(
            folder / prepared.MANIFEST, json.dumps({**manifest, "num_rows": num_rows}, indent=1)
        )


def _make_folder(
    folder: Path, settings: Mapping[str, Any], fields: Mapping[str, Field], num_files: int
) -> None:
    """Make a folder without rows; it appears whole or not at all.

    Args:
        folder: The folder.
        settings: Plain values that decide the content of the rows.
        fields: The arrays by name.
        num_files: Source files of every row.

    Raises:
        OSError: If it cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process with our number
    temporary.mkdir()
    arrays = {name: np.empty((0, *field.shape), field.dtype) for name, field in fields.items()}
    arrays["done"] = np.empty(0, np.bool_)
    arrays["checksums"] = np.empty(0, np.uint32)
    arrays["sources"] = np.empty((0, num_files), prepared.RECORD)
    described = [(k, {"shape": list(f.shape), "dtype": f.dtype}) for k, f in fields.items()]
    manifest = {"settings": dict(settings), "num_rows": 0, "fields": described}
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        (temporary / prepared.MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _lengthen(path: Path, num_rows: int) -> None:
    """Make room for more rows, all zero, in a ``.npy`` file; they take no space until written."""
    with path.open("r+b") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        file.truncate(start + num_rows * int(np.prod(shape[1:])) * dtype.itemsize)
        file.seek(0)
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (num_rows, *shape[1:]),
        }
        np.lib.format.write_array_header_1_0(file, header)
        assert file.tell() == start  # NumPy leaves room for the first axis to grow


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from preparing a folder.

    Raises:
        DatasetError: If one is preparing it.
    """
    try:
        with FileLock(folder / "lock", blocking=False):
            yield
    except Timeout as error:
        raise DatasetError(
            f"Another process is preparing {folder}; wait for it, or stop it."
        ) from error
