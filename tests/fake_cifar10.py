"""Files in the layout of CIFAR10, written by us, that take the place of the real ones."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from rotograd_cli.data import cifar10

NUM = {"train": 40, "test": 30}  # images of each training file and of the test file


def batch_of(name: str) -> dict[str, object]:
    """A batch as the official files have it, every class at least twice."""
    generator = np.random.default_rng(list(REAL_FILES).index(name))
    num = NUM["test" if name == cifar10.TEST_FILE else "train"]
    labels = generator.permutation(np.arange(num) % 10)
    data = generator.integers(0, 256, (num, 3 * 32 * 32), np.uint8)
    return {"batch_label": name, "labels": labels.tolist(), "data": data, "filenames": ["a.png"]}


def write(folder: Path) -> None:
    """Write the six files, pickled by protocol 4."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in REAL_FILES:
        (folder / name).write_bytes(pickle.dumps(batch_of(name), protocol=4))


def expect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loader expect these files instead of the real ones."""
    digests = {
        name: hashlib.md5(
            pickle.dumps(batch_of(name), protocol=4), usedforsecurity=False
        ).hexdigest()
        for name in REAL_FILES
    }
    monkeypatch.setattr(cifar10, "FILES", digests)


REAL_FILES = dict(cifar10.FILES)
