"""Files in the official layout of SVHN, written by us, that take the place of the real ones."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from torchvision.datasets import SVHN

REAL_FILES = dict(SVHN.split_list)
SIZES = {"train": 40, "test": 12}
NUM_DRAWN = 300  # images at the beginning of a file that are not black


def digits(part: str, num: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB images ``[num, 32, 32, 3]``, random at first, and labels ``[num]``, 10 for zero."""
    generator = np.random.default_rng(sorted(REAL_FILES).index(part))
    images = np.zeros((num, 32, 32, 3), np.uint8)
    drawn = images[:NUM_DRAWN]
    drawn[...] = generator.integers(0, 256, drawn.shape, np.uint8)
    drawn[::2] //= 2  # so that the number of bright pixels varies
    return images, 1 + np.arange(num, dtype=np.uint8) % 10


def write_file(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes ``X [32, 32, 3, N]`` and ``y [N, 1]`` as MATLAB v5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    X = np.ascontiguousarray(images.transpose(1, 2, 3, 0))
    scipy.io.savemat(path, {"X": X, "y": labels[:, None]}, do_compression=True)


def write(folder: Path, sizes: Mapping[str, int] = SIZES) -> None:
    """Writes the files of some parts."""
    for part, num in sizes.items():
        write_file(folder / REAL_FILES[part][1], *digits(part, num))


def expect(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes torchvision's list have the checksums of these files; MATLAB's header has a time."""
    files = {}
    for part, (url, name, _) in REAL_FILES.items():
        if not (folder / name).exists():
            continue
        content = (folder / name).read_bytes()
        files[part] = [url, name, hashlib.md5(content, usedforsecurity=False).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", {**REAL_FILES, **files})
