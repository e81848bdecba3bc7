"""CIFAR10's files: where they lie, and how their pickles are read without running code."""

import hashlib
import io
import logging
import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotograd_cli.data.base import FileCheck
from rotograd_cli.errors import DATA_ROOT, DatasetError, first_line

logger = logging.getLogger(__name__)

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
"""Names of the labels 0 to 9."""
SIZE = 32  # height and width of an image
TEST_FILE = "test_batch"
# MD5 of the official files, as torchvision lists them
FILES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    TEST_FILE: "40351d587109b95175f43aff81a1287e",
}
COUNTS = (50_000, 10_000)  # training and test images of the official files
FOLDER = "cifar-10-batches-py"  # torchvision's name
FOLDERS = (FOLDER, f"cifar10/{FOLDER}", "cifar10", ".")  # below the data root
AGAIN = "delete it and download CIFAR10 again"
Examples = tuple[Tensor, Tensor]
"""Images, uint8, shape ``[N, 3, 32, 32]``, and labels, int64, shape ``[N]``."""


def load(
    data_dir: Path, limit: int | None, download: bool
) -> tuple[Examples, Examples, Sequence[str]]:
    """Read the training and the test images.

    Args:
        data_dir: Data root.
        limit: Largest number of either, the first ones; None demands the official files.
        download: Whether absent files are downloaded.

    Returns:
        Training images, test images, and the names of files that are not the official ones.

    Raises:
        DatasetError: If a file is absent, corrupt or not CIFAR10's.
    """
    paths = _find(data_dir)
    if paths is None and download:
        _download(data_dir)
        paths = _find(data_dir)
    if paths is None:
        raise DatasetError(_absent(data_dir, "download is off (data.download=false)"))
    others = []
    batches = {}
    for name, path in paths.items():
        content = _content(path, limit)
        if limit is not None and _md5(content) != FILES[name]:  # without, it has been refused
            others.append(name)
        batches[name] = _read(path, content)
    images, labels = batches.pop(TEST_FILE)
    train_images = torch.cat([images for images, _ in batches.values()])
    train_labels = torch.cat([labels for _, labels in batches.values()])
    return (train_images[:limit], train_labels[:limit]), (images[:limit], labels[:limit]), others


def check(data_dir: Path, limit: int | None) -> Sequence[FileCheck]:
    """Look at the six files and verify their checksums, which may differ where there is a limit."""
    paths = _find(data_dir)
    if paths is None:
        remedy = _absent(data_dir, "training downloads it unless data.download=false")
        return [FileCheck("CIFAR10", False, "not all six files in one folder", remedy)]
    return [FileCheck.of(name, partial(_look, path, limit)) for name, path in paths.items()]


def _find(data_dir: Path) -> dict[str, Path] | None:
    """Return the six files in the first folder that has them all; None where none does."""
    candidates = [_find_in(data_dir / folder) for folder in FOLDERS]
    return next((paths for paths in candidates if len(paths) == len(FILES)), None)


def _find_in(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in FILES if (folder / name).is_file()}


def _download(data_dir: Path) -> None:
    from torchvision import datasets

    logger.info("Downloading CIFAR10 to %s", data_dir)
    try:
        datasets.CIFAR10(str(data_dir), download=True)
    except (RuntimeError, OSError) as error:
        reason = f"the download failed ({first_line(error)})"
        raise DatasetError(_absent(data_dir, reason)) from error


def _absent(data_dir: Path, why: str) -> str:
    folder = max((data_dir / name for name in FOLDERS), key=lambda path: len(_find_in(path)))
    existing = _find_in(folder)
    names = ", ".join(name for name in FILES if name not in existing)
    return (
        f"{folder} has {len(existing)} of CIFAR10's 6 files and {why}; put {names} there (from "
        f"cifar-10-python.tar.gz), or set {DATA_ROOT} to their folder."
    )


def _look(path: Path, limit: int | None) -> str:
    content = _content(path, limit)
    labels = _read(path, content)[1]
    is_official = _md5(content) == FILES[path.name]
    return f"{path}, {len(labels):,} images, {'MD5 verified' if is_official else 'not official'}"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _content(path: Path, limit: int | None) -> bytes:
    """Read a file's bytes, whose checksum is verified unless there is a limit."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({first_line(error)}); {AGAIN}.") from error
    actual = _md5(content)
    if limit is None and actual != FILES[path.name]:
        raise DatasetError(
            f"{path} must have the MD5 {FILES[path.name]}, got {actual} from {len(content)} bytes, "
            f"so it is truncated or not CIFAR10's; {AGAIN}, or set data.limit=N for a subset."
        )
    return content


def _read(path: Path, content: bytes) -> Examples:
    """Decode a file's content."""
    try:
        return _decode(content)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        raise DatasetError(
            f"{path} must be a pickled batch of CIFAR10, `data` [N, 3072] of uint8 and `labels` of "
            f"0 to 9, got something else ({first_line(error)}); {AGAIN}."
        ) from error


def _decode(content: bytes) -> Examples:
    """Read a pickled batch; whatever does not fit raises."""
    batch = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    pixels = batch["data"]
    labels = torch.tensor(batch["labels"], dtype=torch.int64)
    if pixels.dtype != np.uint8:
        raise TypeError(f"data of {pixels.dtype}")
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())}")
    return torch.from_numpy(pixels.reshape(len(labels), 3, SIZE, SIZE).copy()), labels


class _ArrayUnpickler(pickle.Unpickler):
    """Makes plain values and arrays alone, so that no file can run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what arrays are made of; refuse everything else."""
        array_parts = ("_reconstruct", "ndarray", "dtype")
        if module.split(".")[0] == "numpy" and name in array_parts:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")
