"""The files of prepared rows: one ``.npy`` file per array, which grows when rows are added."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from rotograd_cli.data.sources import RECORD
from rotograd_cli.errors import DatasetError

MANIFEST = "manifest.json"


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


def make_folder(
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
    arrays["sources"] = np.empty((0, num_files), RECORD)
    described = [(k, {"shape": list(f.shape), "dtype": f.dtype}) for k, f in fields.items()]
    manifest = {"settings": dict(settings), "num_rows": 0, "fields": described}
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def lengthen(path: Path, num_rows: int) -> None:
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
def locked(folder: Path) -> Iterator[None]:
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
