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

Make = Callable[[tuple[str, ...], Callable[[str], bytes]], Mapping[str, np.ndarray]]
"""Makes the arrays of a row from the names of its files and from what reads one of them."""

_CHUNK = 32  # rows of one piece of a thread's work
_COMMIT_S = 2.0  # seconds of work that an interruption can lose


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
        """Folder of rows with the given settings, which may not exist.

        Args:
            root: Where prepared folders are.
            settings: Plain values that decide the content of the rows.

        Returns:
            The folder.
        """
        text = json.dumps(settings, sort_keys=True)
        return root / hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def create(
        cls,
        root: Path,
        settings: Mapping[str, Any],
        fields: Mapping[str, Field],
        files: Sequence[tuple[str, ...]],
    ) -> "PreparedArrays":
        """Opens the folder for writing, made where it is absent, with a row for each of the files.

        Args:
            root: Where prepared folders are; made if absent.
            settings: Plain values that decide the content of the rows.
            fields: The arrays.
            files: Source files of every wanted row, relative to their folder, as many for each;
                the first one names the row.

        Returns:
            The arrays, writable; rows that are new are not done.

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
    def num_bytes(self) -> int:
        """Size on disk of all rows."""
        return len(self) * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Size on disk of a row."""
        return sum(field.num_bytes for field in self.fields.values())

    def rows_of(self, files: Sequence[tuple[str, ...]]) -> np.ndarray:
        """Rows of source files, int64, in order; -1 for files that have none."""
        known = self._numbers
        return np.fromiter((known.get(row[0], -1) for row in files), np.int64, len(files))

    def is_done(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Whether rows can be read, bool; -1 is none."""
        chosen = np.asarray(rows, np.int64)
        result: np.ndarray = chosen >= 0
        result[result] = self._done[chosen[result]]
        return result

    def files_of(self, row: int) -> tuple[str, ...]:
        """Source files of a row."""
        return tuple(name.decode() for name in self._sources[row]["name"].tolist())

    def done_files(self) -> list[str]:
        """The first source file of every row that is done."""
        return [name.decode() for name in self._sources["name"][self._done, 0].tolist()]

    def take(self, name: str, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Rows of one array, copied; other threads run meanwhile.

        Args:
            name: Which array.
            rows: int64, shape ``[N]``.
            out: Where to put them, shape ``[N, *shape]``; None makes an array.

        Returns:
            The rows.
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
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Makes those of the given rows that are not done, in threads.

        What has been made is kept whatever happens: a second call makes the rest.

        Args:
            rows: Wanted rows.
            make: Makes the content of a row: every array's part. It must read all its files.
            source: Folder of the source files.
            workers: Number of threads.
            progress: Told how many of the wanted rows are done, and how many are wanted.

        Raises:
            DatasetError: If another process is filling the folder, the disk has not enough space,
                or ``make`` raises it.
        """
        wanted = np.asarray(rows, np.int64)
        total = len(wanted)
        with locked(self.folder), ThreadPoolExecutor(workers) as pool:
            todo = wanted[~self.is_done(wanted)]
            self._check_space(len(todo))
            chunks = np.array_split(todo, -(-len(todo) // _CHUNK)) if len(todo) else []
            futures = [pool.submit(self._write, chunk, make, source) for chunk in chunks]
            made: list[Future[np.ndarray]] = []
            committed, last = total - len(todo), time.monotonic()
            progress(committed, total)
            try:
                for future in as_completed(futures):
                    future.result()
                    made.append(future)
                    if time.monotonic() - last > _COMMIT_S:
                        committed += self._commit(made)
                        progress(committed, total)
                        last = time.monotonic()
            finally:
                made = [f for f in futures if not f.cancel()]
                pool.shutdown()  # also what was under way is kept
                committed = total - len(todo)
                committed += self._commit([f for f in made if f.exception() is None])
                progress(committed, total)

    def damaged(
        self,
        rows: Sequence[int] | np.ndarray,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[int]:
        """Rows whose content is not what was written, by their checksums.

        Args:
            rows: Rows to look at, all done.
            progress: Told how many have been looked at, and how many there are.

        Returns:
            The damaged rows.
        """
        wrong = []
        for position, row in enumerate(rows):
            if self._checksum(int(row)) != self._checksums[row]:
                wrong.append(int(row))
            if position % 1000 == 0 or position == len(rows) - 1:
                progress(position + 1, len(rows))
        return wrong

    def compare(
        self, rows: Sequence[int] | np.ndarray, source: Path, *, thorough: bool = False
    ) -> Comparison:
        """Compares the files that rows were made from with those that are there.

        Args:
            rows: Rows to look at, all done.
            source: Folder of the source files.
            thorough: Whether files are read even where size and time are as they were.

        Returns:
            What was found.
        """
        chosen = np.asarray(rows, np.int64)
        return compare(chosen, np.array(self._sources[chosen]), source, thorough=thorough)

    def remember_times(self, found: Comparison) -> None:
        """Keeps the times of files that have the content they had, so that none is read again."""
        times = self._sources["mtime_ns"]
        times[found.rows] = np.where(found.is_touched, found.times, times[found.rows])
        self._flush(self._sources)

    def forget(self, rows: Sequence[int] | np.ndarray) -> None:
        """Marks rows as not done, so that :meth:`fill` makes them again."""
        self._done[list(rows)] = False
        self._flush(self._done)

    def fingerprint(self, rows: Sequence[int] | np.ndarray) -> str:
        """First 16 hexadecimal digits of a hash of the settings and of the rows' content."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self._checksums[np.asarray(rows, np.int64)]).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Rows by the name of their first file."""
        names = self._sources["name"][:, 0].tolist()
        return {name.decode(): row for row, name in enumerate(names)}

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

    def _commit(self, made: list[Future[np.ndarray]]) -> int:
        """Marks rows as done once they are on the disk; returns their number."""
        if not made:
            return 0
        for array in (*self._maps.values(), self._checksums, self._sources):
            self._flush(array)
        rows = np.concatenate([future.result() for future in made])
        self._done[rows] = True
        self._flush(self._done)
        made.clear()
        return len(rows)

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

    @staticmethod
    def _flush(array: np.ndarray) -> None:
        assert isinstance(array, np.memmap)
        array.flush()


def _add_rows(folder: Path, files: Sequence[tuple[str, ...]]) -> None:
    """Adds a row, not done, for each of the files that has none; the manifest comes last."""
    with locked(folder):
        arrays = PreparedArrays(folder)
        known = arrays.rows_of(files) >= 0
        new = [row for row, is_known in zip(files, known, strict=True) if not is_known]
        num_rows = len(arrays) + len(new)
        for name in (*arrays.fields, "done", "checksums", "sources"):
            lengthen(folder / f"{name}.npy", num_rows)
        sources = load(folder, "sources", "r+", num_rows)
        sources["name"][len(arrays) :] = [[name.encode() for name in row] for row in new]
        sources.flush()  # type: ignore[attr-defined]  # a memory map
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        temporary = folder / f".{MANIFEST}"
        temporary.write_text(json.dumps({**manifest, "num_rows": num_rows}, indent=1), "utf-8")
        temporary.replace(folder / MANIFEST)
