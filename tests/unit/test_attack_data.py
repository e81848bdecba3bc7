"""Damaged files of every data set: refused by name, or read as valid data."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rotograd_cli.data.base import MultiTaskDataset
from rotograd_cli.data.celeba import CelebA
from rotograd_cli.data.multimnist import MultiMNIST
from rotograd_cli.data.nyuv2.dataset import NYUv2
from rotograd_cli.errors import DatasetError
from tests import fake_celeba, fake_mnist, fake_nyuv2

PAGE = b"<!DOCTYPE html><html><title>404 Not Found</title></html>"
CPU = torch.device("cpu")
SMALL = 51_000  # training images of MNIST: validation are those after the first 50,000


def damaged(content: bytes, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """What downloads, disks and people do to a file."""
    at = draw.randrange(len(content))
    head = draw.randrange(min(300, len(content)))  # magic numbers, shapes, headers
    for place in (at, head):
        byte = bytes([content[place] ^ (1 << draw.randrange(8))])
        yield f"bit flipped at {place}", content[:place] + byte + content[place + 1 :]
        yield f"noise at {place}", content[:place] + draw.randbytes(16) + content[place + 16 :]
        yield f"zeros at {place}", content[:place] + bytes(64) + content[place + 64 :]
        yield f"cut at {place}", content[:place]
        yield f"a hole at {place}", content[:place] + content[place + 7 :]
    yield "a page", PAGE
    yield "empty", b""
    yield "zeros", bytes(len(content))
    yield "twice", content + content
    yield "noise", draw.randbytes(len(content))


class Files:
    """A small data set of one kind, written anew for every attack."""

    def __init__(
        self, root: Path, write: Callable[[Path], Any], use: Callable[[Path], Any]
    ) -> None:
        self.root, self.use = root, use
        write(root / "clean")
        self.files = sorted(
            file.relative_to(root / "clean")
            for file in (root / "clean").rglob("*")
            if file.is_file()
        )

    def attack(self, num_files: int, seed: int) -> dict[str, int]:
        """How many damaged files were refused, and how many read as valid data."""
        draw, counts = random.Random(seed), {"refused": 0, "valid": 0}
        for name in draw.sample(self.files, min(num_files, len(self.files))):
            content = (self.root / "clean" / name).read_bytes()
            for what, bad in damaged(content, draw):
                counts[self._try(name, bad, f"{name}: {what}")] += 1
        return counts

    def _try(self, name: Path, content: bytes, what: str) -> str:
        folder = self.root / "attacked"
        shutil.copytree(self.root / "clean", folder)
        (folder / name).write_bytes(content)
        try:
            dataset = self.use(folder)
        except DatasetError as error:
            message = str(error)
            assert "\n" not in message, what
            # a split that names other frames is noticed by the file that lacks them
            blamed = {name.name, fake_nyuv2.official.FILE} if name.suffix == ".mat" else {name.name}
            assert any(file in message for file in blamed), (what, message)
            return "refused"
        else:
            check_valid(dataset, what)
            return "valid"
        finally:
            shutil.rmtree(folder)


def check_valid(dataset: MultiTaskDataset, what: str) -> None:
    """Every number that training would see is one that the data set may have."""
    for split in ("train", "val", "test"):
        batch = dataset.batch(split, torch.arange(dataset.num_examples(split))[:20])
        assert bool(batch.inputs.isfinite().all()), what
        for task in dataset.tasks:
            target = batch.targets[task.name]
            assert bool(target.isfinite().all()), (what, task.name)
            if not target.is_floating_point():
                assert int(target.min()) >= -1, (what, task.name)
                assert int(target.max()) < task.num_outputs, (what, task.name)
            elif task.name == "depth":
                assert float(target.min()) >= 0, what
                assert float(target.max()) < 100, what
            elif task.name == "normal":
                assert float(target.abs().max()) <= 1.001, what


def celeba(root: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    def use(folder: Path) -> CelebA:
        fake_celeba.prepare(folder, workers=1)
        return CelebA(data_dir=folder, tasks=None, device=CPU, **fake_celeba.OPTIONS)

    return Files(root, lambda folder: fake_celeba.write(folder / "celeba"), use)


def nyuv2(root: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    options = {**fake_nyuv2.OPTIONS, "limit": 5}

    def use(folder: Path) -> NYUv2:
        fake_nyuv2.prepare(folder, limit=5)
        return NYUv2(data_dir=folder, tasks=None, device=CPU, **options)

    return Files(root, lambda folder: fake_nyuv2.write_layout(folder / "nyuv2", 5, 1), use)


def official(root: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """The file that NYUv2 is published as, with the small ones beside it."""
    options = {**fake_nyuv2.OPTIONS, "limit": 5}

    def use(folder: Path) -> NYUv2:
        fake_nyuv2.prepare(folder / "data", folder / "nyu_depth_v2_labeled.mat", limit=5)
        return NYUv2(data_dir=folder / "data", tasks=None, device=CPU, **options)

    return Files(root, lambda folder: fake_nyuv2.write_official(folder, (2, 3, 5, 8, 9), (1,)), use)


def multimnist(root: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    fake_mnist.expect(monkeypatch, SMALL)
    options = {"partners": 1, "download": False, "seed": 0, "mean": 0.13, "std": 0.31}

    def use(folder: Path) -> MultiMNIST:
        return MultiMNIST(data_dir=folder, tasks=None, device=CPU, **options)

    def write(folder: Path) -> None:
        fake_mnist.write(folder / "mnist", num_train=SMALL, compress=True)

    return Files(root, write, use)


ATTACKED = {"celeba": celeba, "nyuv2": nyuv2, "official": official, "multimnist": multimnist}


@pytest.mark.parametrize("name", ["celeba", "nyuv2", "multimnist"])
def test_a_damaged_file_is_refused_by_name_or_read_as_valid_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = ATTACKED[name](tmp_path, monkeypatch).attack(1, seed=1)
    assert counts["refused"] > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKED)
def test_many_damaged_files_are_refused_by_name_or_read_as_valid_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = ATTACKED[name](tmp_path, monkeypatch).attack(8, seed=2)
    print(f"damaged files of {name}: {counts}")  # noqa: T201 - the figure is the point
    assert sum(counts.values()) > 50


@pytest.mark.parametrize("value", [255, -2, 13])
def test_a_label_that_is_no_class_is_refused(value: int, tmp_path: Path) -> None:
    fake_nyuv2.write_layout(tmp_path / "nyuv2", 5, 1)
    path = tmp_path / "nyuv2" / "train" / "label" / "3.npy"
    labels = np.load(path)
    labels[7, 9] = value
    np.save(path, labels)
    with pytest.raises(DatasetError, match=r"label/3\.npy must be whole numbers from -1"):
        fake_nyuv2.prepare(tmp_path, limit=5)


def test_one_depth_that_is_nan_is_refused(tmp_path: Path) -> None:
    fake_nyuv2.write_layout(tmp_path / "nyuv2", 5, 1)
    path = tmp_path / "nyuv2" / "train" / "depth" / "3.npy"
    depth = np.load(path)
    depth[7, 9] = np.nan
    np.save(path, depth)
    with pytest.raises(DatasetError, match=r"depth/3\.npy must be finite, found 1 value"):
        fake_nyuv2.prepare(tmp_path, limit=5)
