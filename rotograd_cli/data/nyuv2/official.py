"""The official file, ``nyu_depth_v2_labeled.mat``, and the three small files it needs.

It is MATLAB v7.3, that is HDF5, with the axes reversed: ``images [N, 3, 640, 480]``, ``depths`` and
``labels [N, 640, 480]``. The split is in ``splits.mat`` (1-based ids), the 13 classes in
``classMapping40.mat`` (894 to 40) and ``class13Mapping.mat`` (40 to 13).
"""

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rotograd_cli.data.nyuv2.layout import NUM_CLASSES, Part
from rotograd_cli.errors import DatasetError, first_line, listed

FILE = "nyu_depth_v2_labeled.mat"
PAGE = "https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html"
MAPS_PAGE = "https://github.com/ankurhanda/nyuv2-meta-data"
# file: (what it holds, where it comes from)
AUXILIARY = {
    "splits.mat": ("official split", PAGE),
    "classMapping40.mat": ("map from 894 to 40 classes", MAPS_PAGE),
    "class13Mapping.mat": ("map from 40 to 13 classes", MAPS_PAGE),
}
HEIGHT, WIDTH = 480, 640


@dataclass(frozen=True)
class OfficialFrame:
    """A labelled frame in its full size."""

    image: np.ndarray
    """uint8, shape ``[480, 640, 3]``."""
    depth: np.ndarray
    """Filled-in depth in metres, shape ``[480, 640]``."""
    label: np.ndarray
    """Class among 13, float32, shape ``[480, 640]``; -1 where there is no label."""


class OfficialFile:
    """The open file, with split and classes.

    Args:
        path: The file.
        folder: Where the small files are looked for besides the file's own folder.

    Raises:
        DatasetError: If a file is absent or not what it should be.
    """

    def __init__(self, path: Path, file: Any, folder: Path) -> None:
        self.path, self._file = path, file
        num = _check_arrays(path, file)
        # a cut-down copy says which frames it holds; the official file has them all
        ids = np.asarray(file.attrs.get("source_ids", np.arange(1, num + 1)), np.int64)
        if ids.shape != (num,) or len(set(ids.tolist())) < num:
            raise _bad(path, f"`source_ids` must hold {num} different ids", f"shape {ids.shape}")
        self._positions = {int(frame_id): position for position, frame_id in enumerate(ids)}
        splits, to_40, to_13 = (_find_auxiliary(name, path, folder) for name in AUXILIARY)
        self._classes = read_class_map(to_40, to_13)
        self.ids = _read_split(splits, self._positions)

    def checksum(self) -> str:
        """First 16 hexadecimal digits of a hash of the file and of the map of its classes."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "blake2b")
        digest.update(self._classes.tobytes())
        return digest.hexdigest()[:16]

    def read(self, frame_id: int) -> OfficialFrame:
        """Read a frame by its 1-based id.

        Raises:
            DatasetError: If it cannot be read, or its values are not those of NYUv2.
        """
        position = self._positions[frame_id]
        try:
            image = self._file["images"][position].transpose(2, 1, 0)
            depth = self._file["depths"][position].T
            label = self._file["labels"][position].T
        except OSError as error:
            raise _bad(self.path, f"frame {frame_id} must be readable", str(error)) from error
        if not (np.isfinite(depth).all() and depth.min() >= 0):
            raise _bad(self.path, f"the depth of frame {frame_id} must be at least 0", "others")
        if label.max() >= len(self._classes):
            largest = len(self._classes) - 1
            raise _bad(self.path, f"labels must be at most {largest}", f"{label.max()}")
        return OfficialFrame(np.ascontiguousarray(image), depth, self._classes[label])


@contextmanager
def open_official(path: Path, folder: Path) -> Iterator[OfficialFile]:
    """Open the official file.

    Args:
        path: The file.
        folder: Where the small files are looked for besides the file's own folder.

    Yields:
        The file.

    Raises:
        DatasetError: If a file is absent or not what it should be.
    """
    import h5py  # needed once

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "a folder" if path.is_dir() else first_line(error)
        raise _bad(path, f"must be {FILE} (HDF5)", reason) from error
    with file:
        yield OfficialFile(path, file, folder)


def read_class_map(to_40: Path, to_13: Path) -> np.ndarray:
    """Return the class among 13 for every label of the official file.

    Args:
        to_40: ``classMapping40.mat``.
        to_13: ``class13Mapping.mat``.

    Returns:
        float32, shape ``[895]``: 0..12, and -1 for label 0, which is none.

    Raises:
        DatasetError: If a file is not what it should be.
    """
    (names,) = _entries(to_40, "mapClass")
    classes_40 = _checked_map(to_40, names, 894, 40)
    (table,) = _entries(to_13, "classMapping13")
    try:
        labels = table["labels13"][0, 0]
    except (IndexError, ValueError, TypeError) as error:
        raise _bad(to_13, "must map 40 classes to 13", str(error)) from error
    classes_13 = _checked_map(to_13, labels, 40, NUM_CLASSES)
    result: np.ndarray = classes_13[classes_40].astype(np.float32) - 1
    return result


def _checked_map(path: Path, values: np.ndarray, num_from: int, num_to: int) -> np.ndarray:
    """A map of class numbers from 1 on, with 0 (no class) mapped to itself in front."""
    numbers = np.ravel(values)
    is_map = len(numbers) == num_from and np.isin(numbers, np.arange(num_to + 1)).all()
    if not is_map or not np.issubdtype(numbers.dtype, np.integer):
        found = f"{len(numbers)} entries, {listed([str(number) for number in numbers])}"
        raise _bad(path, f"must map {num_from} classes to {num_to}", found)
    return np.concatenate([[0], numbers])


def _find_auxiliary(name: str, source: Path, folder: Path) -> Path:
    for path in (source.parent / name, folder / name):
        if path.is_file():
            return path
    what, where = AUXILIARY[name]
    raise DatasetError(
        f"{name} ({what}) is neither in {source.parent} nor in {folder}; get it from {where}."
    )


def _read_split(path: Path, positions: Mapping[int, int]) -> dict[Part, np.ndarray]:
    parts: tuple[Part, ...] = ("train", "val")
    lists = _entries(path, "trainNdxs", "testNdxs")
    return {
        part: np.array(sorted(set(ids.ravel().tolist()).intersection(positions)), np.int64)
        for part, ids in zip(parts, lists, strict=True)
    }


_READ_ENTRIES = """
import pickle, sys
from scipy.io import loadmat
path, *keys = sys.argv[1:]
content = loadmat(path)
sys.stdout.buffer.write(pickle.dumps([content[key] for key in keys]))
"""


def _entries(path: Path, *keys: str) -> list[np.ndarray]:
    """Read a MATLAB file in another process: damage makes SciPy's parser crash."""
    command = [sys.executable, "-c", _READ_ENTRIES, str(path), *keys]
    reader = subprocess.run(command, capture_output=True, check=False)
    if reader.returncode != 0:
        lines = reader.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if reader.returncode > 0 and lines else "content that crashes the reader"
        raise _bad(path, f"must be a MATLAB file with `{'` and `'.join(keys)}`", reason)
    values: list[np.ndarray] = pickle.loads(reader.stdout)
    return values


def _check_arrays(path: Path, file: Any) -> int:
    """Number of frames of a file with the arrays that it should have."""
    names = ("images", "depths", "labels")
    found = {name: getattr(file.get(name), "shape", None) for name in names}
    num: int = (found["labels"] or (1,))[0]
    maps = (num, WIDTH, HEIGHT)
    expected = {"images": (num, 3, WIDTH, HEIGHT), "depths": maps, "labels": maps}
    if found != expected:
        raise _bad(path, f"arrays must have the shapes {expected}", found)
    return num


def _bad(path: Path, requirement: str, found: object) -> DatasetError:
    name = AUXILIARY.get(path.name, ("", PAGE))
    return DatasetError(f"{path}: {requirement}, found {found}; get the file again from {name[1]}.")
