"""MultiMNIST: where its files may lie, and what is said when they are absent or broken."""

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision.datasets

from rotograd_cli.data.multimnist import MultiMNIST
from rotograd_cli.errors import ConfigError, DatasetError
from tests import fake_mnist

IMAGES = "train-images-idx3-ubyte"
SMALL = 50  # training images of the files that are never composed
OPTIONS: dict[str, Any] = {
    "tasks": None,
    "device": torch.device("cpu"),
    "partners": 1,
    "download": False,
    "seed": 0,
    "mean": 0.1307,
    "std": 0.3081,
}


def load(folder: Path, **changes: Any) -> MultiMNIST:
    return MultiMNIST(data_dir=folder, **{**OPTIONS, **changes})


def refusal(folder: Path, **changes: Any) -> str:
    """Message of the error that loading raises."""
    with pytest.raises(DatasetError) as caught:
        load(folder, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- layouts and split


@pytest.mark.parametrize(
    ("layout", "compress"),
    [
        ("MNIST/raw", False),
        ("mnist", True),
        pytest.param(".", False, marks=pytest.mark.slow),
        pytest.param("multimnist", True, marks=pytest.mark.slow),
    ],
)
def test_every_layout_is_read_plain_and_compressed(
    layout: str, compress: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_mnist.expect(monkeypatch)
    fake_mnist.write(tmp_path / layout, compress=compress)
    dataset = load(tmp_path)
    contents = fake_mnist.contents()
    train = list(contents["train-labels-idx1-ubyte"][8:])
    expected = {
        "train": train[:50_000],
        "val": train[50_000:],  # the last 10,000 of MNIST's training file
        "test": list(contents["t10k-labels-idx1-ubyte"][8:]),
    }
    for split in ("train", "val", "test"):
        num = dataset.num_examples(split)
        left = dataset.batch(split, torch.arange(num)).targets["left"]
        assert left.tolist() == expected[split]
    first = dataset.batch("train", torch.tensor([0])).inputs[0, 0, 0, 0]
    pixel = contents[IMAGES][16]
    assert float(first) == pytest.approx((pixel / 255 - 0.1307) / 0.3081, rel=1e-5)


def test_four_files_must_lie_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mnist.expect(monkeypatch, SMALL)
    fake_mnist.write(tmp_path / "mnist", num_train=SMALL)
    (tmp_path / "mnist" / IMAGES).rename(tmp_path / IMAGES)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / 'mnist'} has 3 of MNIST's 4 files and download is off")
    assert f"; put {IMAGES}[.gz] there, or set paths.data_dir" in message


# ---- broken files


def bit_flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


HTML = b"<!doctype html><title>404 Not Found</title>"
PLAIN: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-1],
    "bit flipped": bit_flipped,
    "page": lambda content: HTML,
    "empty": lambda content: b"",
    "compressed under the plain name": lambda content: gzip.compress(content, 1),
    "labels": lambda content: fake_mnist.contents(SMALL)["train-labels-idx1-ubyte"],
}
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "truncated in the checksum": lambda content: content[:-3],
    "header alone": lambda content: content[:5],
    "bit flipped": bit_flipped,
    "page": lambda content: HTML,
    "empty": lambda content: b"",
    "garbage at the end": lambda content: content + b"garbage",
    "another file": lambda content: gzip.compress(b"another file"),
}


@pytest.mark.parametrize("damage", PLAIN.values(), ids=PLAIN.keys())
def test_broken_plain_file_is_named_with_its_remedy(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refusal(tmp_path / "mnist" / IMAGES, damage, monkeypatch)


@pytest.mark.parametrize("damage", COMPRESSED.values(), ids=COMPRESSED.keys())
def test_broken_compressed_file_is_named_with_its_remedy(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_refusal(tmp_path / "mnist" / f"{IMAGES}.gz", damage, monkeypatch)


def check_refusal(
    path: Path, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_mnist.expect(monkeypatch, SMALL)
    fake_mnist.write(path.parent, compress=path.suffix == ".gz", num_train=SMALL)
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(path.parent.parent)
    assert message.startswith(f"{path} ")
    assert message.endswith("delete it and download MNIST again.")


# ---- absent files


def test_absent_files_are_listed_with_the_folder_they_belong_in(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    for name in fake_mnist.REAL_FILES:
        assert f"{name}[.gz]" in message
    assert str(tmp_path / "MNIST" / "raw") in message
    assert "download is off (data.download=false)" in message
    assert "ROTOGRAD_DATA" in message


@pytest.mark.parametrize(
    "error",
    [
        URLError("Temporary failure in name resolution"),
        RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried two mirrors"),
        PermissionError(13, "Permission denied"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failed_download_lists_the_files_in_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    message = refusal(tmp_path, download=True)
    assert "the download failed" in message
    assert all(name in message for name in fake_mnist.REAL_FILES)


def test_files_that_are_there_are_never_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: object) -> None:
        raise AssertionError("downloaded")

    fake_mnist.expect(monkeypatch, SMALL)
    fake_mnist.write(tmp_path, num_train=SMALL)
    (tmp_path / IMAGES).write_bytes(HTML)  # stops before the composition
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    assert "must have the MD5" in refusal(tmp_path, download=True)


def test_bad_option_is_refused_before_files_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`partners` must be at least 1, got 0"):
        load(tmp_path / "absent", partners=0)


# ---- the real files


@pytest.mark.data
def test_real_files_are_mnist() -> None:
    folder = os.environ.get("ROTOGRAD_DATA")
    if folder is None:
        pytest.skip("ROTOGRAD_DATA is not set")
    dataset = load(Path(folder))
    sizes = [dataset.num_examples(split) for split in ("train", "val", "test")]
    assert sizes == [50_000, 10_000, 10_000]
    first = torch.arange(5)
    labels = {
        split: dataset.batch(split, first).targets["left"].tolist() for split in ("train", "test")
    }
    assert labels == {"train": [5, 0, 4, 1, 9], "test": [7, 2, 1, 0, 4]}


@pytest.mark.data
def test_the_files_of_torchvisions_list_unpack_to_our_checksums() -> None:
    folder = os.environ.get("ROTOGRAD_DATA")
    if folder is None:
        pytest.skip("ROTOGRAD_DATA is not set")
    for name, md5 in torchvision.datasets.MNIST.resources:
        content = (Path(folder) / "mnist" / name).read_bytes()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == md5
        unpacked = hashlib.md5(gzip.decompress(content), usedforsecurity=False).hexdigest()
        assert unpacked == fake_mnist.REAL_FILES[name.removesuffix(".gz")][0]


def test_readme_lists_the_checksums_that_are_verified() -> None:
    readme = Path(__file__).parents[2] / "datasets" / "multimnist" / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, (md5, _) in fake_mnist.REAL_FILES.items():
        assert f"| `{name}` | `{md5}` |" in text
