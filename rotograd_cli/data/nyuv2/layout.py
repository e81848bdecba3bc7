"""MTAN's layout of NYUv2: one ``.npy`` file per frame and kind, and the splits."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rotograd_cli.errors import DatasetError

Part = Literal["train", "val"]
"""Folder of the layout; ``val`` holds the official test frames."""
Kind = Literal["image", "label", "depth", "normal"]

HEIGHT, WIDTH = 288, 384
NUM_CLASSES = 13
NUM_FRAMES: dict[Part, int] = {"train": 795, "val": 654}
FIRST_VALIDATION_FRAME = 4
SHAPES: dict[Kind, tuple[int, ...]] = {
    "image": (HEIGHT, WIDTH, 3),
    "label": (HEIGHT, WIDTH),
    "depth": (HEIGHT, WIDTH, 1),
    "normal": (HEIGHT, WIDTH, 3),
}
FOLDERS = ("nyuv2", "nyuv2/mtan", "NYUv2", ".")  # below the data root
PROVENANCE = "provenance.json"
_NUMBER = re.compile("0|[1-9][0-9]*")
_SLACK = 1e-2  # resized images and normals may leave their range by a little
_LARGEST_DEPTH = 1000.0  # metres; more means another unit


@dataclass(frozen=True)
class Layout:
    """A layout on disk."""

    root: Path
    """Folder that holds ``train`` and ``val``."""
    frames: Mapping[tuple[Part, Kind], frozenset[int]]
    """Numbers of the files that are there."""
    provenance: Mapping[str, Any] | None
    """What ``provenance.json`` says; None for files that others made."""

    @classmethod
    def scan(cls, root: Path) -> "Layout":
        """Read the names of all files.

        Raises:
            DatasetError: If ``provenance.json`` cannot be read.
        """
        frames: dict[tuple[Part, Kind], frozenset[int]] = {}
        for part in NUM_FRAMES:
            for kind in SHAPES:
                names = (path.stem for path in (root / part / kind).glob("[!.]*.npy"))
                frames[part, kind] = frozenset(map(int, filter(_NUMBER.fullmatch, names)))
        return cls(root, frames, read_provenance(root))

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of arrays that are there: images, and what else has a file."""
        there = {"image", *(kind for (_, kind), numbers in self.frames.items() if numbers)}
        return tuple(kind for kind in SHAPES if kind in there)

    @property
    def num_frames(self) -> Mapping[Part, int]:
        """Frames up to the last one that has a file; of a layout of ours, frames of its source."""
        if self.provenance is not None:
            num: Mapping[Part, int] = self.provenance["num_frames"]
            return num
        return {
            part: 1 + max(max(self.frames[part, kind], default=-1) for kind in self.kinds)
            for part in NUM_FRAMES
        }

    def absent(self, chosen: Mapping[Part, int]) -> list[str]:
        """Return the files, of the kinds that are there, which the first frames lack.

        Args:
            chosen: Number of frames of each folder.
        """
        return [
            file_name(part, kind, frame)
            for part, num in chosen.items()
            for frame in range(num)
            for kind in self.kinds
            if frame not in self.frames[part, kind]
        ]

    def files(self, part: Part, frame: int) -> tuple[str, ...]:
        """Return the names of a frame's files, the image first."""
        return tuple(file_name(part, kind, frame) for kind in self.kinds)

    def read(self, files: Sequence[str], contents: Sequence[bytes]) -> dict[Kind, np.ndarray]:
        """Return all arrays of a frame, checked.

        Args:
            files: Names of its files, as :meth:`files` returns them.
            contents: Their bytes.

        Returns:
            ``image`` in [0, 1], ``depth`` in metres (0: none) and ``normal`` (0: none), float,
            channels last; ``label`` in -1..12, float. Kinds that are not there are left out.

        Raises:
            DatasetError: If a file is absent, unreadable or not what MTAN's files hold.
        """
        parts = zip(self.kinds, files, contents, strict=True)
        return {kind: _read(self.root / name, kind, content) for kind, name, content in parts}


def _read(path: Path, kind: Kind, content: bytes) -> np.ndarray:
    try:
        array = load_array(content)
    except ValueError as error:
        raise _bad(path, "must be a NumPy array", str(error)) from error
    if array.shape != SHAPES[kind]:
        raise _bad(path, f"must have shape {SHAPES[kind]}", f"{array.shape}")
    if array.dtype not in (np.float32, np.float64):
        raise _bad(path, "must be float32 or float64", f"{array.dtype}")
    if not np.isfinite(array).all():
        raise _bad(path, "must be finite", f"{(~np.isfinite(array)).sum()} values that are not")
    _check_values(path, kind, array)
    return array


def load_array(content: bytes) -> np.ndarray:
    """Return the array of a ``.npy`` file, of any shape and type; never execute code from it.

    Raises:
        ValueError: If it is no array; its text is the reason, one line.
    """
    try:
        array: np.ndarray = np.lib.format.read_array(BytesIO(content), allow_pickle=False)
    except Exception as error:  # damaged bytes make the parser of headers raise anything
        # never NumPy's words: they advise to run code from the file
        raise ValueError(f"damaged or other content that begins with {content[:10]!r}") from error
    return array


def file_name(part: Part, kind: Kind, frame: int) -> str:
    """Return the name of a file below the root of a layout."""
    return f"{part}/{kind}/{frame}.npy"


def find_layout(data_dir: Path) -> Layout | None:
    """Find the first folder below the data root that holds MTAN's layout.

    Raises:
        DatasetError: If a ``provenance.json`` cannot be read.
    """
    for name in FOLDERS:
        root = Path(data_dir) / name
        if (root / "train" / "image").is_dir():
            layout = Layout.scan(root)
            if any(layout.frames.values()):  # empty folders are left behind
                return layout
    return None


def read_provenance(root: Path) -> dict[str, Any] | None:
    """Read ``provenance.json``; return None where there is none.

    Raises:
        DatasetError: If it cannot be read.
    """
    path = root / PROVENANCE
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        ok = set(content["num_frames"]) == set(NUM_FRAMES) and isinstance(content["normals"], str)
        if not ok:
            raise ValueError("unexpected content")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} cannot be read ({error}); delete it and the folders train and val beside it, "
            "and build them again from nyu_depth_v2_labeled.mat."
        ) from error
    return content


def chosen_frames(
    num_frames: Mapping[Part, int], limit: int | None, where: Path
) -> dict[Part, int]:
    """Return how many frames of each folder are used.

    Args:
        num_frames: Frames that the source has.
        limit: Largest number of each; None requires the official numbers.
        where: Source, for errors.

    Raises:
        DatasetError: If frames are missing.
    """
    least = {"train": FIRST_VALIDATION_FRAME + 1, "val": 1}  # so that no split is empty
    for part, num in num_frames.items():
        if num < least[part] or (limit is None and num != NUM_FRAMES[part]):
            raise DatasetError(
                f"NYUv2 must have {NUM_FRAMES[part]} frames in {part}, got {num} in {where}; "
                "complete the files (0.npy, 1.npy and so on), or take a subset of at least "
                f"{least[part]} on purpose with data.limit=N."
            )
    return {part: num if limit is None else min(limit, num) for part, num in num_frames.items()}


@cache
def validation_frames() -> frozenset[int]:
    """Return the numbers of the training frames that make up the validation split."""
    package = Path(__file__).resolve().parents[2]
    is_wheel = (package / "datasets").is_dir()  # else it is the repository
    folder = (package if is_wheel else package.parent) / "datasets" / "nyuv2"
    lines = (folder / "validation.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(int(line) for line in lines if line and not line.startswith("#"))


def _check_values(path: Path, kind: Kind, array: np.ndarray) -> None:
    low, high = float(array.min()), float(array.max())
    is_right, requirement = {
        "image": (low >= -_SLACK and high <= 1 + _SLACK, "must lie in [0, 1]"),
        "label": (
            bool(np.isin(array, np.arange(-1, NUM_CLASSES)).all()),
            "must be whole numbers from -1 (void) to 12",
        ),
        "depth": (low >= 0 and high <= _LARGEST_DEPTH, "must be metres, at least 0 (unknown)"),
        "normal": (low >= -1 - _SLACK and high <= 1 + _SLACK, "must lie in [-1, 1]"),
    }[kind]
    if not is_right:
        raise _bad(path, requirement, f"{low:.6g} to {high:.6g}")


def _bad(path: Path, requirement: str, found: str) -> DatasetError:
    return DatasetError(
        f"{path} {requirement}, found {found}; replace this file by the one of MTAN's NYUv2, or "
        "build the layout from nyu_depth_v2_labeled.mat."
    )
