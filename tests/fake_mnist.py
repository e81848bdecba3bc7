"""Files in the format of MNIST, written by us, that take the place of the real ones."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from rotograd_cli.data import multimnist

NUM_DRAWN = 300  # images at the beginning of a file that are not blank


def write(folder: Path, *, compress: bool = False, num_train: int = 60_000) -> None:
    """Writes the four files: random labels, a few random images, the others blank."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents(num_train).items():
        path = folder / (f"{name}.gz" if compress else name)
        path.write_bytes(gzip.compress(content, 1, mtime=0) if compress else content)


def contents(num_train: int = 60_000) -> dict[str, bytes]:
    """Content of every file by name."""
    result = {}
    for index, (name, (_, shape)) in enumerate(REAL_FILES.items()):
        num = num_train if name.startswith("train") else 10_000
        generator = np.random.default_rng(index)
        array = np.zeros((num, *shape[1:]), np.uint8)
        drawn = array if array.ndim == 1 else array[:NUM_DRAWN]
        drawn[...] = generator.integers(0, 10 if array.ndim == 1 else 256, drawn.shape)
        header = np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes()
        result[name] = header + array.tobytes()
    return result


def expect(monkeypatch: pytest.MonkeyPatch, num_train: int = 60_000) -> None:
    """Makes the loader expect these files instead of the real ones."""
    files = {}
    for name, content in contents(num_train).items():
        _, shape = REAL_FILES[name]
        num = num_train if name.startswith("train") else 10_000
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        files[name] = (digest, (num, *shape[1:]))
    monkeypatch.setattr(multimnist, "FILES", files)


REAL_FILES = dict(multimnist.FILES)
