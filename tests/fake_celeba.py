"""Files in the format of CelebA, drawn by us, that take the place of the real ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from rotograd_cli.data.base import FileCheck, Preparation, Split
from rotograd_cli.data.celeba import CelebA
from rotograd_cli.data.celeba import files as celeba_files
from rotograd_cli.data.celeba.files import ATTRIBUTES
from rotograd_cli.errors import DatasetError

COUNTS = (10, 7, 6)
OPTIONS: dict[str, Any] = {  # of conf/data/celeba.yaml, small
    "image_size": 16,
    "limit": 100,
    "read_ahead": 2,
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
}
Tree = Literal["flat", "official", "mixed", "nested"]
_PLACES: Mapping[Tree, tuple[str, str, str]] = {  # of attributes, partition and images
    "flat": ("", "", ""),
    "official": ("Anno", "Eval", "Img"),
    "mixed": ("Anno", "", "Img"),
    "nested": ("", "", "img_align_celeba"),
}


@dataclass(frozen=True)
class FakeFiles:
    """What was written, and where."""

    attributes_file: Path
    partition_file: Path
    images: Path
    names: Sequence[str]
    attributes: np.ndarray
    """-1 or 1, shape ``[N, 40]``."""
    splits: np.ndarray
    """0, 1 or 2, shape ``[N]``; not in order, unlike the real ones."""


def write(folder: Path, *, counts: Sequence[int] = COUNTS, tree: Tree = "flat") -> FakeFiles:
    """Writes images of coloured blobs with random attributes."""
    generator = np.random.default_rng(0)
    splits = generator.permutation(np.repeat(np.arange(3), counts))
    attributes = generator.choice([-1, 1], (len(splits), 40))
    first, second, third = (folder / place for place in _PLACES[tree])
    images = third / "img_align_celeba"
    for path in (first, second, images):
        path.mkdir(parents=True, exist_ok=True)
    names = [f"{index:06d}.jpg" for index in range(1, len(splits) + 1)]
    for name in names:
        colours = generator.integers(0, 256, (9, 7, 3), np.uint8)
        image = Image.fromarray(colours).resize((178, 218), Image.Resampling.BICUBIC)
        image.save(images / name, quality=90)
    files = FakeFiles(
        first / "list_attr_celeba.txt",
        second / "list_eval_partition.txt",
        images,
        names,
        attributes,
        splits,
    )
    rows = [
        f"{name} {' '.join(f'{value:2d}' for value in values)}"
        for name, values in zip(names, attributes, strict=True)
    ]
    lines = [str(len(names)), f"{' '.join(ATTRIBUTES)} ", *rows]
    files.attributes_file.write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    rows = [f"{name} {split}\r\n" for name, split in zip(names, splits, strict=True)]
    files.partition_file.write_bytes("".join(rows).encode())
    return files


def expect(monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...] = COUNTS) -> None:
    """Makes these numbers of images the official ones."""
    monkeypatch.setattr(celeba_files, "COUNTS", counts)


class Told:
    """Keeps what a preparation says."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.progress: list[tuple[str, int, int]] = []

    def how(self, *, workers: int = 2, source: Path | None = None) -> Preparation:
        """A preparation that tells this object."""

        def progress(what: str, done: int, total: int) -> None:
            self.progress.append((what, done, total))

        return Preparation(source, workers, self.lines.append, progress)


def prepare(data_dir: Path, *, workers: int = 2, **changes: Any) -> Told:
    """Prepares the files below a data root."""
    told = Told()
    options = {**OPTIONS, **changes}
    CelebA.prepare(data_dir=data_dir, options=options, how=told.how(workers=workers))
    return told


def load(data_dir: Path, tasks: list[str] | None = None, **changes: Any) -> CelebA:
    cpu = torch.device("cpu")
    return CelebA(data_dir=data_dir, tasks=tasks, device=cpu, **{**OPTIONS, **changes})


def check(data_dir: Path, **changes: Any) -> dict[str, FileCheck]:
    found = CelebA.check_files(data_dir=data_dir, options={**OPTIONS, **changes})
    for entry in found:
        assert entry.ok == (entry.remedy == "")
        assert entry.found
    return {entry.what: entry for entry in found}


def refusal(action: Callable[..., object], data_dir: Path, **changes: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        action(data_dir, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def everything(dataset: CelebA, split: Split) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    batch = dataset.batch(split, torch.arange(dataset.num_examples(split)))
    return batch.inputs, batch.targets
