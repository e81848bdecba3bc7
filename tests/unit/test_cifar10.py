"""CIFAR10: images, labels and tasks belong together; what is said of absent and broken files."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from sklearn.metrics import f1_score
from torch import Tensor

from rotograd_cli.data.base import Batch
from rotograd_cli.data.cifar10 import CIFAR10
from rotograd_cli.data.cifar10.files import CLASSES, FOLDER
from rotograd_cli.errors import ConfigError, DatasetError
from tests import fake_cifar10

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
OPTIONS: dict[str, Any] = {
    "tasks": None,
    "device": torch.device("cpu"),
    "limit": None,
    "val_share": 0.25,
    "download": False,
    "seed": 0,
    "mean": MEAN,
    "std": STD,
}
TRAIN = [name for name in fake_cifar10.REAL_FILES if name.startswith("data")]


def load(folder: Path, **changes: Any) -> CIFAR10:
    return CIFAR10(data_dir=folder, **{**OPTIONS, **changes})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data root with the six files, which the loader takes for the official ones."""
    fake_cifar10.expect(monkeypatch)
    fake_cifar10.write(tmp_path / FOLDER)
    return tmp_path


def refusal(folder: Path, **changes: Any) -> str:
    """Message of the error that loading raises."""
    with pytest.raises(DatasetError) as caught:
        load(folder, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def stored(split: str) -> dict[bytes, int]:
    """Label of every image by its bytes, as written to the files."""
    names = ["test_batch"] if split == "test" else TRAIN
    batches: list[Any] = [fake_cifar10.batch_of(name) for name in names]
    return {
        image.tobytes(): label
        for batch in batches
        for image, label in zip(batch["data"], batch["labels"], strict=True)
    }


def whole(dataset: CIFAR10, split: Any) -> Batch:
    return dataset.batch(split, torch.arange(dataset.num_examples(split)))


# ---- images, labels, splits


def test_every_image_keeps_its_label_and_every_class_is_a_task(folder: Path) -> None:
    dataset = load(folder)
    seen: dict[str, set[bytes]] = {}
    for split in ("train", "val", "test"):
        batch = whole(dataset, split)
        pixels = (dataset.images(batch.inputs) * 255).round().byte().numpy()
        labels = stored(split)
        for row, image in enumerate(pixels):  # planes of red, green and blue, as in the file
            expected = labels[image.tobytes()]
            hits = [name for name in CLASSES if batch.targets[name][row] == 1]
            assert hits == [CLASSES[expected]]
        seen[split] = {image.tobytes() for image in pixels}
    assert {split: len(images) for split, images in seen.items()} == {
        "train": 150,
        "val": 50,
        "test": 30,
    }
    assert not seen["train"] & seen["val"]


def test_labels_are_those_of_torchvisions_reader(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", lambda self: None)
    official = torchvision.datasets.CIFAR10(str(folder), train=False)
    dataset = load(folder)
    batch = whole(dataset, "test")
    image = torch.from_numpy(np.array(official[3][0])).permute(2, 0, 1)
    torch.testing.assert_close(dataset.images(batch.inputs)[3] * 255, image.float())
    targets = torch.stack([batch.targets[name] for name in CLASSES])
    assert targets.argmax(0).tolist() == official.targets


def test_validation_has_the_same_share_of_every_class_and_its_own_seed(folder: Path) -> None:
    dataset = load(folder)
    for name, target in whole(dataset, "val").targets.items():
        assert target.sum() == 5, name  # a quarter of 20
    assert load(folder).fingerprint == dataset.fingerprint
    assert load(folder, seed=1).fingerprint != dataset.fingerprint


def test_inputs_have_the_documented_normalisation(folder: Path) -> None:
    inputs = whole(load(folder), "test").inputs
    first: Any = fake_cifar10.batch_of("test_batch")["data"]
    image = first[0].reshape(3, 32, 32).astype(np.float64) / 255
    expected = (image - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    np.testing.assert_allclose(inputs[0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_f1_of_every_task_is_scikit_learns_over_the_whole_split(folder: Path) -> None:
    dataset = load(folder)
    logits = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    for task in dataset.tasks:
        (spec,) = task.metrics
        metric = spec.create()
        for rows in torch.arange(30).split(7):  # every batch alone would have another F1
            metric.update(
                spec.prepare(logits[rows]), dataset.batch("test", rows).targets[task.name]
            )
        target = whole(dataset, "test").targets[task.name]
        expected = f1_score(target, logits.squeeze(1) > 0, zero_division=0.0)
        assert float(spec.value(metric.compute())) == pytest.approx(expected, abs=1e-12)


# ---- a subset


def test_a_subset_has_the_first_images_and_says_so(folder: Path) -> None:
    for name in TRAIN:  # not the official content: accepted with a limit alone
        (folder / FOLDER / name).write_bytes(pickle.dumps(fake_cifar10.batch_of(name), protocol=4))
    assert "must have the MD5" in refusal(folder)
    dataset = load(folder, limit=40, val_share=0.5)
    assert [dataset.num_examples(split) for split in ("train", "val", "test")] == [20, 20, 30]
    assert dataset.notes == (
        "subset: 40 of 200 training images (20 of them for validation) and 30 of 30 test images",
    )
    pixels = (dataset.images(whole(dataset, "test").inputs) * 255).round().byte().numpy()
    data: Any = fake_cifar10.batch_of("test_batch")["data"]
    assert np.array_equal(pixels.reshape(30, -1), data)
    parts = [dataset.images(whole(dataset, split).inputs) for split in ("train", "val")]
    kept = {image.tobytes() for image in (torch.cat(parts) * 255).round().byte().numpy()}
    first: Any = fake_cifar10.batch_of(TRAIN[0])["data"]
    assert kept == {image.tobytes() for image in first}
    with pytest.raises(ConfigError, match=r"`data.val_share` must leave images.*raise data.limit"):
        load(folder, limit=3, val_share=0.1)


def test_a_limit_that_cuts_nothing_of_the_official_files_leaves_no_subset(folder: Path) -> None:
    assert load(folder, limit=200).notes == load(folder).notes == ()
    (only,) = load(folder, limit=199).notes
    assert only.startswith("subset: 199 of 200 training")


def test_files_of_the_right_size_and_another_content_are_named(folder: Path) -> None:
    path = folder / FOLDER / TRAIN[1]
    path.write_bytes(pickle.dumps(fake_cifar10.batch_of(TRAIN[0]), protocol=4))
    assert load(folder, limit=200).notes == (f"not CIFAR10's official files: {TRAIN[1]}",)


# ---- augmentation


def test_augmentation_is_a_crop_of_the_padded_image_mirrored_by_half(folder: Path) -> None:
    dataset = load(folder)
    batch = dataset.batch("train", torch.arange(60))
    draws = torch.rand(60, 3, generator=torch.Generator().manual_seed(3))
    draws[0] = torch.tensor([0.9, 4 / 9, 4 / 9])  # neither mirrored nor moved
    draws[1] = torch.tensor([0.0, 0.0, 1 - 2**-24])  # the largest move
    result = dataset.augment(batch, draws)
    assert torch.equal(result.inputs[0], batch.inputs[0])
    for row, (flip, top, left) in enumerate(draws.tolist()):
        expected = naive_crop(batch.inputs[row], flip < 0.5, int(top * 9), int(left * 9))
        assert torch.equal(result.inputs[row], expected)
    assert result.targets is batch.targets


def naive_crop(image: Tensor, flip: bool, top: int, left: int) -> Tensor:
    padded = torch.zeros(3, 40, 40)
    padded[:, 4:36, 4:36] = image
    crop = padded[:, top : top + 32, left : left + 32]
    return torch.flip(crop, [2]) if flip else crop


# ---- broken and absent files


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-100],
    "page": lambda content: b"<!doctype html><title>404 Not Found</title>",
    "empty": lambda content: b"",
    "another pickle": lambda content: pickle.dumps([1, 2]),
    "float images": lambda content: pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}),
    "labels of CIFAR100": lambda content: pickle.dumps(
        {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 99]}, protocol=4
    ),
    "fewer labels": lambda content: pickle.dumps(
        {"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1]}, protocol=4
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_broken_file_is_named_with_its_remedy(
    damage: Callable[[bytes], bytes], folder: Path
) -> None:
    path = folder / FOLDER / "data_batch_3"
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(folder)
    assert message.startswith(f"{path} must have the MD5 ")
    assert "; delete it and download CIFAR10 again, or set data.limit=N" in message
    message = refusal(folder, limit=20)
    assert message.startswith(f"{path} must be a pickled batch of CIFAR10")
    assert message.endswith("; delete it and download CIFAR10 again.")


def test_no_file_can_run_code(folder: Path) -> None:
    path = folder / FOLDER / "data_batch_1"
    path.write_bytes(pickle.dumps(Bomb(folder / "ran")))
    assert "mkdir" in refusal(folder, limit=20)
    assert not (folder / "ran").exists()


def test_absent_files_are_listed_with_the_folder_they_belong_in(tmp_path: Path) -> None:
    fake_cifar10.write(tmp_path / "cifar10" / FOLDER)
    (tmp_path / "cifar10" / FOLDER / "data_batch_2").unlink()
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / 'cifar10' / FOLDER} has 5 of CIFAR10's 6 files")
    assert "download is off (data.download=false); put data_batch_2 there" in message
    assert "ROTOGRAD_DATA" in message


@pytest.mark.parametrize(
    "error", [URLError("no network"), RuntimeError("File not found or corrupted.")], ids=str
)
def test_failed_download_lists_the_files_in_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    message = refusal(tmp_path, download=True)
    assert f"the download failed ({error})" in message
    assert all(name in message for name in fake_cifar10.REAL_FILES)


def test_checksums_and_folder_are_torchvisions() -> None:
    source = torchvision.datasets.CIFAR10
    lists = [*source.train_list, *source.test_list]
    assert dict(lists) == fake_cifar10.REAL_FILES
    assert source.base_folder == FOLDER
    readme = Path(__file__).parents[2] / "datasets" / "cifar10" / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, md5 in lists:
        assert f"| `{name}` | `{md5}` |" in text


@pytest.mark.data
def test_real_files_are_cifar10() -> None:
    folder = Path(os.environ.get("ROTOGRAD_DATA", "absent"))
    if not any((folder / place / FOLDER).is_dir() for place in (".", "cifar10")):
        pytest.skip("ROTOGRAD_DATA has no CIFAR10")
    dataset = load(folder, val_share=0.1)
    sizes = [dataset.num_examples(split) for split in ("train", "val", "test")]
    assert sizes == [45_000, 5_000, 10_000]
