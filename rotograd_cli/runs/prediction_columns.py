"""Columns of predictions, written row after row."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np


@dataclass
class ColumnFolder:
    """Columns that are written row after row, each to a ``.npy`` file; nothing stays in memory.

    The files are not written through a memory map: on a full disk that ends the process.

    Args:
        path: The folder; exists.
        num_rows: Number of rows that every column will have.
    """

    path: Path
    num_rows: int
    _files: dict[str, tuple[IO[bytes], np.ndarray]] = field(default_factory=dict, init=False)
    """File of a column, and a row to fill it with."""
    _skipped: dict[str, int] = field(default_factory=dict, init=False)
    """Rows of columns that have no file yet."""
    _stack: ExitStack = field(default_factory=ExitStack, init=False)

    def __enter__(self) -> "ColumnFolder":
        return self

    def __exit__(self, *reason: object) -> None:
        self._stack.close()

    def add(self, name: str, rows: np.ndarray) -> None:
        """Append rows to a column."""
        if name not in self._files:
            row = np.full(rows.shape[1:], filler(rows.dtype), rows.dtype)
            self._files[name] = (self._open(name, rows), row)
            self.skip(name, self._skipped.pop(name, 0))
        self._files[name][0].write(np.ascontiguousarray(rows).tobytes())

    def skip(self, name: str, num: int) -> None:
        """Append rows without a value (:func:`filler`); a column of such rows has no file."""
        if name in self._files:
            file, row = self._files[name]
            for _ in range(num):
                file.write(row.tobytes())
        else:
            self._skipped[name] = self._skipped.get(name, 0) + num

    def _open(self, name: str, rows: np.ndarray) -> IO[bytes]:
        file = self._stack.enter_context((self.path / file_name(name)).open("xb"))
        header = {
            "descr": np.lib.format.dtype_to_descr(rows.dtype),
            "fortran_order": False,
            "shape": (self.num_rows, *rows.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(file, header)
        return file


def filler(dtype: np.dtype[Any]) -> float:
    """Return what a column has where there is no value: NaN, -1 of integers, else 0."""
    return {"f": np.nan, "i": -1}.get(dtype.kind, 0)


def file_name(column: str) -> str:
    """Return the name of a column's file in a folder."""
    return f"{column.replace('/', '.')}.npy"
