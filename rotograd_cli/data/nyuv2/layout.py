"""MTAN's layout of NYUv2: one ``.npy`` file per frame and kind, and the splits."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rotograd_cli.data.nyuv2.arrays import load_array
from rotograd_cli.errors import ConfigError, DatasetError

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
_SLACK = 1e-2  # resized images and normals may leave their range by a little
_LARGEST_DEPTH = 1000.0  # metres; more means another unit


@dataclass(frozen=True)
class Layout:
    """A layout on disk."""

    root: Path
    """Folder that holds ``train`` and ``val``."""
    num_files: Mapping[Part, int]
    """Frames that are there."""
    provenance: Mapping[str, Any] | None
    """What ``provenance.json`` says; None for files that others made."""

    @property
    def num_frames(self) -> Mapping[Part, int]:
        """Frames of the source: of a layout of ours that is not finished more than are there."""
        if self.provenance is None:
            return self.num_files
        num: Mapping[Part, int] = self.provenance["num_frames"]
        return num

    def path(self, part: Part, kind: Kind, frame: int) -> Path:
        """The file of a frame."""
        return self.root / part / kind / f"{frame}.npy"

    def read(self, part: Part, frame: int) -> dict[Kind, np.ndarray]:
        """All arrays of a frame, checked.

        Args:
            part: Folder.
            frame: Number, from 0.

        Returns:
            ``image`` in [0, 1], ``depth`` in metres (0: none) and ``normal`` (0: none), float,
            channels last; ``label`` in -1..12, float.

        Raises:
            DatasetError: If a file is absent, unreadable or not what MTAN's files hold.
        """
        return {kind: self._read(part, kind, frame) for kind in SHAPES}

    def checksum(self) -> str:
        """Checksum of the first training frame: tells one preprocessing from another."""
        value = 0
        for kind in SHAPES:
            path = self.path("train", kind, 0)
            try:
                value = zlib.crc32(path.read_bytes(), value)
            except OSError as error:
                raise DatasetError(f"{path} cannot be read ({error.strerror}).") from error
        return f"{value:08x}"

    def _read(self, part: Part, kind: Kind, frame: int) -> np.ndarray:
        path = self.path(part, kind, frame)
        try:
            array = load_array(path)
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


def find_layout(data_dir: Path) -> Layout | None:
    """The first folder below the data root that holds MTAN's layout; None without any.

    Raises:
        DatasetError: If a ``provenance.json`` cannot be read.
    """
    for name in FOLDERS:
        root = Path(data_dir) / name
        if (root / "train" / "image").is_dir():
            num_files = {part: _count(root / part / "image") for part in NUM_FRAMES}
            return Layout(root, num_files, read_provenance(root))
    return None


def read_provenance(root: Path) -> dict[str, Any] | None:
    """What ``provenance.json`` says; None without one.

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
    """How many frames of each folder are used.

    Args:
        num_frames: Frames that the source has.
        limit: Largest number of each; None demands the official numbers.
        where: Named in errors.

    Returns:
        Numbers.

    Raises:
        DatasetError: If frames are missing.
    """
    if limit is None:
        for part, num in NUM_FRAMES.items():
            if num_frames[part] != num:
                raise DatasetError(
                    f"NYUv2 must have {num} frames in {part}, got {num_frames[part]} in {where}; "
                    "complete the files, or take a subset on purpose with data.limit=N."
                )
        return dict(NUM_FRAMES)
    chosen = {part: min(limit, num) for part, num in num_frames.items()}
    needed = {"train": FIRST_VALIDATION_FRAME + 1, "val": 1}
    for part, num in chosen.items():
        if num < needed[part]:
            raise DatasetError(
                f"NYUv2 must have at least {needed[part]} frames in {part} (training frame "
                f"{FIRST_VALIDATION_FRAME} is the first of the validation split), got {num} in "
                f"{where}; add files."
            )
    return chosen


def check_limit(limit: int | None) -> None:
    """Refuses a number of frames that leaves a split empty.

    Raises:
        ConfigError: If it does.
    """
    least = FIRST_VALIDATION_FRAME + 1
    if limit is not None and limit < least:
        raise ConfigError(
            f"`data.limit` must be null or at least {least}, got {limit}: training frame "
            f"{FIRST_VALIDATION_FRAME} is the first of the validation split."
        )


@cache
def validation_frames() -> frozenset[int]:
    """Numbers of the training frames that make up the validation split.

    Raises:
        DatasetError: If the list is not there, which means a broken installation.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (package, package.parent):  # in the wheel, in the repository
        path = folder / "datasets" / "nyuv2" / "validation.txt"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            return frozenset(int(line) for line in lines if line and not line.startswith("#"))
    raise DatasetError(
        f"No validation split in {package / 'datasets' / 'nyuv2'}; install rotograd-cli again."
    )


def _count(folder: Path) -> int:
    """Number of the first frame that is absent."""
    names = {path.name for path in folder.glob("*.npy")} if folder.is_dir() else set()
    num = 0
    while f"{num}.npy" in names:
        num += 1
    return num


def _check_values(path: Path, kind: Kind, array: np.ndarray) -> None:
    low, high = float(array.min()), float(array.max())
    found = f"{low:.6g} to {high:.6g}"
    if kind == "label":
        if not (np.isin(array, np.arange(-1, NUM_CLASSES)).all()):
            raise _bad(path, "must be whole numbers from -1 (void) to 12", found)
    elif kind == "depth":
        if low < 0 or high > _LARGEST_DEPTH:
            raise _bad(path, "must be metres, at least 0 (unknown)", found)
    elif low < (-1 if kind == "normal" else 0) - _SLACK or high > 1 + _SLACK:
        raise _bad(path, f"must lie in [{-1 if kind == 'normal' else 0}, 1]", found)


def _bad(path: Path, requirement: str, found: str) -> DatasetError:
    return DatasetError(
        f"{path} {requirement}, found {found}; replace this file by the one of MTAN's NYUv2, or "
        "build the layout from nyu_depth_v2_labeled.mat."
    )
