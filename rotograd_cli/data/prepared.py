"""Prepared data: rows of fixed size in memory-mapped files, written once, read by index.

A data set whose files are slow to read (JPEG images, one file per frame) decodes them once with
:meth:`PreparedArrays.fill`. The folder is named by a hash of the settings that decide its content,
so that other settings never meet old rows. Rows are marked done after they have reached the disk:
an interrupted preparation goes on where it stopped, and a subset of the rows can be prepared first.
"""

import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rotograd_cli.errors import DatasetError

_MANIFEST = "manifest.json"
_CHUNK = 32  # rows of one piece of a thread's work
_COMMIT_S = 2.0  # seconds of work that an interruption can lose


@dataclass(frozen=True)
class Field:
    """One array: what each row holds."""

    shape: tuple[int, ...]
    dtype: str
    """NumPy's name of the type."""

    @property
    def num_bytes(self) -> int:
        """Size of a row."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


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
        mode: Any = "r+" if writable else "r"
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            self.settings: dict[str, Any] = manifest["settings"]
            self.fields = {k: Field(tuple(f["shape"]), f["dtype"]) for k, f in manifest["fields"]}
            self._maps = {name: _load(folder, name, mode) for name in self.fields}
            self._done = _load(folder, "done", mode)
            self._checksums = _load(folder, "checksums", mode)
            sizes = {len(array) for array in (*self._maps.values(), self._done, self._checksums)}
            if sizes != {manifest["num_rows"]}:
                raise ValueError("files of different lengths")
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
        cls, root: Path, settings: Mapping[str, Any], fields: Mapping[str, Field], num_rows: int
    ) -> "PreparedArrays":
        """Makes the folder with no row done, or opens it for writing where it exists.

        Args:
            root: Where prepared folders are; made if absent.
            settings: Plain values that decide the content of the rows.
            fields: The arrays.
            num_rows: Number of rows of each.

        Returns:
            The arrays, writable.

        Raises:
            DatasetError: If the folder cannot be written.
        """
        folder = cls.locate(root, settings)
        if folder.is_dir():
            return cls(folder, writable=True)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with our number
            temporary.mkdir()
            manifest = {
                "settings": dict(settings),
                "num_rows": num_rows,
                "fields": [
                    (name, {"shape": list(field.shape), "dtype": field.dtype})
                    for name, field in fields.items()
                ],
            }
            for name, field in fields.items():
                _make(temporary, name, (num_rows, *field.shape), field.dtype)
            _make(temporary, "done", (num_rows,), "bool")
            _make(temporary, "checksums", (num_rows,), "uint32")
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            try:
                temporary.rename(folder)  # appears whole or not at all
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
        except OSError as error:
            raise DatasetError(
                f"The prepared data cannot be written to {root} ({error.strerror}); set "
                "paths.data_dir to a writable folder."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls(folder, writable=True)

    def __len__(self) -> int:
        return len(self._done)

    @property
    def num_bytes(self) -> int:
        """Size on disk of all rows."""
        return len(self) * sum(field.num_bytes for field in self.fields.values())

    def missing(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Those of the given rows that are not done, int64, in order."""
        chosen = np.asarray(rows, np.int64)
        result: np.ndarray = chosen[~self._done[chosen]]
        return result

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
        make: Callable[[int], Mapping[str, np.ndarray]],
        *,
        workers: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Makes those of the given rows that are not done, in threads.

        What has been made is kept whatever happens: a second call makes the rest.

        Args:
            rows: Wanted rows.
            make: Makes the content of a row: every array's part.
            workers: Number of threads.
            progress: Told how many of the wanted rows are done, and how many are wanted.

        Raises:
            DatasetError: If another process is filling the folder, the disk has not enough space,
                or ``make`` raises it.
        """
        total = len(rows)
        with self._lock(), ThreadPoolExecutor(workers) as pool:
            todo = self.missing(rows)
            self._check_space(len(todo))
            chunks = np.array_split(todo, -(-len(todo) // _CHUNK)) if len(todo) else []
            futures = [pool.submit(self._write, chunk, make) for chunk in chunks]
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

    def forget(self, rows: Sequence[int]) -> None:
        """Marks rows as not done, so that :meth:`fill` makes them again."""
        self._done[list(rows)] = False
        self._flush(self._done)

    def fingerprint(self, rows: Sequence[int] | np.ndarray) -> str:
        """First 16 hexadecimal digits of a hash of the settings and the rows' checksums."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode())
        digest.update(np.asarray(rows, np.int64).tobytes())
        digest.update(np.ascontiguousarray(self._checksums[np.asarray(rows, np.int64)]).tobytes())
        return digest.hexdigest()[:16]

    def _write(
        self, rows: np.ndarray, make: Callable[[int], Mapping[str, np.ndarray]]
    ) -> np.ndarray:
        for row in rows:
            content = make(int(row))
            for name, array in self._maps.items():
                assert content[name].shape == array.shape[1:]  # never broadcast
                array[row] = content[name]
            self._checksums[row] = self._checksum(int(row))
        return rows

    def _commit(self, made: list[Future[np.ndarray]]) -> int:
        """Marks rows as done once they are on the disk; returns their number."""
        if not made:
            return 0
        for array in (*self._maps.values(), self._checksums):
            self._flush(array)
        rows = np.concatenate([future.result() for future in made])
        self._done[rows] = True
        self._flush(self._done)
        made.clear()
        return len(rows)

    def _check_space(self, num_rows: int) -> None:
        # Rows that were never written take no space yet: the files are sparse. A full disk would
        # kill the process, as writing to a memory map cannot fail in another way.
        needed = num_rows * sum(field.num_bytes for field in self.fields.values())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DatasetError(
                f"The prepared data need {needed / 1e9:.2f} GB in {self.folder.parent}, "
                f"{free / 1e9:.2f} GB are free; make room, or set paths.data_dir to another disk."
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

    @contextmanager
    def _lock(self) -> Iterator[None]:
        import fcntl  # POSIX only, and only preparation needs it

        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise DatasetError(
                    f"Another process is preparing {self.folder}; wait for it, or stop it."
                ) from error
            yield


def _load(folder: Path, name: str, mode: Any) -> np.ndarray:
    array: np.ndarray = np.load(folder / f"{name}.npy", mmap_mode=mode)
    return array


def _make(folder: Path, name: str, shape: tuple[int, ...], dtype: str) -> None:
    array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(dtype), shape)
    with suppress(AttributeError):
        array.flush()
