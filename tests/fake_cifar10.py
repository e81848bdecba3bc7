"""Files in the layout of CIFAR10, written by us, that take the place of the real ones."""

import hashlib
import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from rotograd_cli.data.cifar10 import dataset, files

NUM = {"train": 40, "test": 30}  # images of each training file and of the test file


def batch_of(name: str) -> dict[str, object]:
    """A batch as the official files have it, every class at least twice."""
    generator = np.random.default_rng(list(REAL_FILES).index(name))
    num = NUM["test" if name == files.TEST_FILE else "train"]
    labels = generator.permutation(np.arange(num) % 10)
    data = generator.integers(0, 256, (num, 3 * 32 * 32), np.uint8)
    return {"batch_label": name, "labels": labels.tolist(), "data": data, "filenames": ["a.png"]}


def write(folder: Path) -> None:
    """Write the six files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in REAL_FILES:
        (folder / name).write_bytes(pickled(batch_of(name)))


def pickled(batch: dict[str, object]) -> bytes:
    """Pickle as Python 2 did for the official files: every text and array a string of bytes."""
    stream = io.BytesIO()
    _Python2(stream, protocol=2).dump(batch)
    return stream.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def expect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loader expect these files instead of the real ones."""
    digests = {
        name: hashlib.md5(pickled(batch_of(name)), usedforsecurity=False).hexdigest()
        for name in REAL_FILES
    }
    monkeypatch.setattr(files, "FILES", digests)
    monkeypatch.setattr(dataset, "COUNTS", (5 * NUM["train"], NUM["test"]))


class _Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, value: bytes | str) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = save_string
    dispatch[str] = save_string


REAL_FILES = dict(files.FILES)
