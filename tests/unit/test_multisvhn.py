"""MultiSVHN: the official files, the labels of zeros, grey levels, pairs, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets.utils
from PIL import Image

from rotograd_cli.data.base import SPLITS
from rotograd_cli.data.multisvhn import MultiSVHN
from rotograd_cli.errors import ConfigError, DatasetError
from tests import fake_svhn

TRAIN = "train_32x32.mat"
MEAN, STD = 0.4453, 0.198
OPTIONS: dict[str, Any] = {
    "tasks": None,
    "device": torch.device("cpu"),
    "extra": False,
    "num_val": 10,
    "partners": 1,
    "download": False,
    "seed": 0,
    "mean": MEAN,
    "std": STD,
}


def load(folder: Path, **changes: Any) -> MultiSVHN:
    return MultiSVHN(data_dir=folder, **{**OPTIONS, **changes})


def refusal(folder: Path, **changes: Any) -> str:
    """Message of the error that loading raises."""
    with pytest.raises(DatasetError) as caught:
        load(folder, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with small files that count as the official ones."""
    fake_svhn.write(tmp_path / "svhn")
    fake_svhn.expect(tmp_path / "svhn", monkeypatch)
    return tmp_path


def grey_levels(images: np.ndarray) -> np.ndarray:
    """PIL's grey levels of RGB images, ``[N, 32, 32]``."""
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])


def official(part: str, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels by PIL and labels, 0 for zero."""
    images, labels = fake_svhn.digits(part, num)
    return grey_levels(images), np.where(labels == 10, 0, labels).astype(int)


def test_pairs_are_pils_grey_levels_of_official_digits_side_by_side(files: Path) -> None:
    dataset = load(files, partners=2)
    images, labels = official("train", 40)
    test = official("test", 12)
    expected = {
        "train": (images[:30], labels[:30]),
        "val": (images[30:], labels[30:]),
        "test": test,
    }
    assert dataset.input_shape == (1, 32, 64)
    for split, (grey, digits) in expected.items():
        num = dataset.num_examples(split)
        batch = dataset.batch(split, torch.arange(num))
        pixels = (255 * (batch.inputs.double() * STD + MEAN)).round().squeeze(1).numpy()
        assert num == 2 * len(digits)
        np.testing.assert_array_equal(pixels[:, :, :32], np.tile(grey, (2, 1, 1)))
        assert batch.targets["left"].tolist() == np.tile(digits, 2).tolist()
        for right, label in zip(pixels[:, :, 32:], batch.targets["right"].tolist(), strict=True):
            (source,) = np.flatnonzero((grey == right).all((1, 2)))  # a digit of the same split
            assert digits[source] == label


def test_zero_is_the_label_ten_of_the_files(files: Path) -> None:
    targets = load(files).batch("test", torch.arange(12)).targets
    assert targets["left"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    sums = targets["left"] + targets["right"]
    assert torch.equal(targets["sum"], sums.float())


def test_active_pixels_are_brighter_than_half_and_standardised_on_training(files: Path) -> None:
    dataset = load(files)
    counts, given = {}, {}
    for split in SPLITS:
        batch = dataset.batch(split, torch.arange(dataset.num_examples(split)))
        shown = dataset.images(batch.inputs)
        counts[split] = (shown > 0.5).sum((1, 2, 3)).double()
        given[split] = batch.targets["pixels"].double()
    mean, std = counts["train"].mean(), counts["train"].std()
    for split in SPLITS:
        torch.testing.assert_close(given[split], (counts[split] - mean) / std, rtol=1e-5, atol=1e-5)


def test_digits_of_the_extra_file_join_the_training_split_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {**fake_svhn.SIZES, "extra": 25}
    fake_svhn.write(tmp_path, sizes)
    fake_svhn.expect(tmp_path, monkeypatch)
    dataset = load(tmp_path, extra=True)
    assert [dataset.num_examples(split) for split in SPLITS] == [30 + 25, 10, 12]
    labels = np.concatenate((official("train", 40)[1][:30], official("extra", 25)[1]))
    assert dataset.batch("train", torch.arange(55)).targets["left"].tolist() == labels.tolist()


def test_validation_must_leave_digits_to_train_on(files: Path) -> None:
    with pytest.raises(ConfigError, match=r"`num_val` must be less than the 40 .* got 40"):
        load(files, num_val=40)


# ---- broken files


def rewritten(change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Any:
    def damage(path: Path) -> None:
        fake_svhn.write_file(path, *change(*fake_svhn.digits("train", 40)))

    return damage


def replaced(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(change(path.read_bytes())))


def void(_: object) -> None:
    return None


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (replaced(lambda content: content[:-1]), "truncated or not SVHN's"),
    "page": (replaced(lambda content: b"<!DOCTYPE html><title>404</title>"), "a web page"),
    "empty": (replaced(lambda content: b""), "truncated or not SVHN's"),
    "v7.3": (replaced(lambda content: b"MATLAB 7.3 MAT-file" + content[19:]), "MATLAB v7.3"),
    "fewer labels": (rewritten(lambda x, y: (x, y[:-1])), "truncated or not SVHN's"),
    "label 0": (rewritten(lambda x, y: (x, y % 10)), "truncated or not SVHN's"),
}


@pytest.mark.parametrize(("damage", "guess"), DAMAGES.values(), ids=DAMAGES.keys())
def test_broken_file_is_named_with_its_remedy(
    damage: Callable[[Path], None], guess: str, files: Path
) -> None:
    path = files / "svhn" / TRAIN
    damage(path)
    message = refusal(files)
    assert message.startswith(f"{path} must have the MD5 ")
    assert f"so it is {guess}" in message
    assert message.endswith("; delete it and download SVHN again.")


# ---- absent files


def test_absent_files_are_listed_with_the_folder_they_belong_in(files: Path) -> None:
    (files / "svhn" / TRAIN).unlink()
    message = refusal(files)
    assert message.startswith(f"{files / 'svhn'} lacks {TRAIN} of SVHN and download is off")
    assert f"; put {TRAIN} there, or set paths.data_dir (or ROTOGRAD_DATA)" in message
    assert "extra_32x32.mat" in refusal(files, extra=True)


def test_failed_download_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download_url(url: str, root: str, filename: str, md5: str) -> None:
        Path(root).mkdir()
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_url)
    message = refusal(tmp_path, download=True)
    assert "the download failed (<urlopen error Temporary failure in name resolution>)" in message
    assert not list(tmp_path.iterdir())


def test_readme_lists_the_checksums_that_are_verified() -> None:
    readme = Path(__file__).parents[2] / "datasets" / "multisvhn" / "README.md"
    text = readme.read_text(encoding="utf-8")
    for _, name, md5 in fake_svhn.REAL_FILES.values():
        assert f"| `{name}` | `{md5}` |" in text
