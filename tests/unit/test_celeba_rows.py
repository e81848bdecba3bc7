"""CelebA's prepared rows: made once, found stale or damaged, used without their files."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rotograd_cli.data.base import Split
from rotograd_cli.data.celeba import CelebA
from rotograd_cli.data.celeba import dataset as celeba_dataset
from rotograd_cli.data.celeba.files import ATTRIBUTES
from rotograd_cli.data.filling import WritableArrays
from rotograd_cli.data.prepared import PreparedArrays
from rotograd_cli.errors import ConfigError
from tests import fake_celeba
from tests.fake_celeba import (
    OPTIONS,
    FakeFiles,
    Told,
    check,
    everything,
    load,
    prepare,
    refusal,
)

SPLITS: tuple[Split, ...] = ("train", "val", "test")
SIZE = OPTIONS["image_size"]


@pytest.fixture
def files(tmp_path: Path) -> FakeFiles:
    return fake_celeba.write(tmp_path / "celeba")


# ---- preparation


def test_preparation_says_what_it_does(files: FakeFiles, tmp_path: Path) -> None:
    told = prepare(tmp_path)
    folder = tmp_path / "celeba" / "prepared"
    before, after = told.lines
    assert before == "CelebA at 16x16: 23 of 23 images to prepare; they need 17.7 kB"
    assert after.startswith(f"CelebA at 16x16 is prepared: 23 images in {folder}")
    assert ("preparing", 23, 23) in told.progress
    again = prepare(tmp_path)
    assert again.lines == [after.replace("is prepared", "is complete")]
    assert ("checking", 23, 23) in again.progress


@pytest.mark.parametrize("broken", [3, 19])
def test_interrupted_preparation_goes_on_to_the_same_bits(
    broken: int, files: FakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rotograd_cli.data.filling._CHUNK", 1)
    read_image, read = celeba_dataset.read_image, []

    def interrupted(path: Path, size: int, content: bytes) -> np.ndarray:
        read.append(path.name)
        if len(read) == broken:
            raise KeyboardInterrupt
        return read_image(path, size, content)

    monkeypatch.setattr(celeba_dataset, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, workers=1)
    assert "is not prepared" in refusal(load, tmp_path)
    prepare(tmp_path, workers=1)
    twice = {name for name in read if read.count(name) > 1}
    assert twice == {files.names[broken - 1]}  # the interrupted one alone
    assert set(read) == set(files.names)
    fake_celeba.write(tmp_path / "other" / "celeba")
    prepare(tmp_path / "other")
    assert contents(tmp_path) == contents(tmp_path / "other")


def contents(data_dir: Path) -> dict[str, bytes]:
    root = data_dir / "celeba" / "prepared"
    paths = [path for path in root.rglob("*.npy") if path.stem != "sources"]  # times differ
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_larger_limit_adds_to_the_same_rows(
    files: FakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_image, read = celeba_dataset.read_image, []

    def counted(path: Path, size: int, content: bytes) -> np.ndarray:
        read.append(path.name)
        return read_image(path, size, content)

    monkeypatch.setattr(celeba_dataset, "read_image", counted)
    prepare(tmp_path, limit=2)
    assert len(read) == 6
    assert "is not prepared" in refusal(load, tmp_path, limit=3)
    told = prepare(tmp_path)
    assert sorted(read) == files.names  # none twice
    assert "17 of 23 images to prepare" in told.lines[0]


def test_another_size_is_another_folder(files: FakeFiles, tmp_path: Path) -> None:
    prepare(tmp_path)
    assert "is not prepared" in refusal(load, tmp_path, image_size=8)


def test_annotations_that_change_count_at_once(files: FakeFiles, tmp_path: Path) -> None:
    prepare(tmp_path)
    before = load(tmp_path)
    text = files.attributes_file.read_text()
    first = text.index("-1")
    files.attributes_file.write_text(f"{text[:first]} 1{text[first + 2 :]}")
    after = load(tmp_path)
    assert after.fingerprint != before.fingerprint
    differing = 0
    for split in SPLITS:
        old, new = (everything(dataset, split)[1] for dataset in (before, after))
        differing += sum(int((old[name] != new[name]).sum()) for name in ATTRIBUTES)
    assert differing == 1


# ---- files that change after they were prepared


def other_image(path: Path) -> None:
    """Writes another image of the same size in bytes."""
    size = path.stat().st_size
    Image.new("RGB", (178, 218), (7, 200, 30)).save(path)
    with path.open("ab") as file:
        file.write(bytes(size - path.stat().st_size))


def test_changed_images_are_named_and_they_alone_are_made_again(
    files: FakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    fingerprint = load(tmp_path).fingerprint
    changed = ["000004.jpg", "000019.jpg"]
    for name in changed:
        other_image(files.images / name)
    message = refusal(load, tmp_path)
    place = f"000004.jpg, 000019.jpg in {files.images}"
    assert message.startswith(f"{place} changed after they were prepared; run: rotograd data prep")
    found = check(tmp_path)["prepared rows"]
    assert found.found.endswith("; 2 changed: 000004.jpg, 000019.jpg")
    assert found.remedy.startswith("run: rotograd data prepare celeba")
    read_image, read = celeba_dataset.read_image, []

    def counted(path: Path, size: int, content: bytes) -> np.ndarray:
        read.append(path.name)
        return read_image(path, size, content)

    monkeypatch.setattr(celeba_dataset, "read_image", counted)
    changes = "(2 changed: 000004.jpg, 000019.jpg)"
    first = f"CelebA at 16x16: 2 of 23 images to prepare {changes}; they need "
    assert prepare(tmp_path).lines[0].startswith(first)
    assert sorted(read) == changed
    assert load(tmp_path).fingerprint != fingerprint
    assert check(tmp_path)["prepared rows"].ok
    fake_celeba.write(tmp_path / "other" / "celeba")
    for name in changed:
        shutil.copy(files.images / name, tmp_path / "other" / "celeba" / "img_align_celeba")
    prepare(tmp_path / "other")
    assert load(tmp_path).fingerprint == load(tmp_path / "other").fingerprint


def test_touched_or_copied_images_are_not_changed(files: FakeFiles, tmp_path: Path) -> None:
    prepare(tmp_path)
    fingerprint = load(tmp_path).fingerprint
    for name in files.names:
        os.utime(files.images / name, (1, 1))
    assert load(tmp_path).fingerprint == fingerprint
    assert check(tmp_path)["prepared rows"].ok
    assert "is complete" in prepare(tmp_path).lines[0]
    (folder,) = (tmp_path / "celeba" / "prepared").iterdir()
    comparison = PreparedArrays(folder).compare(range(23), files.images)
    assert not comparison.is_touched.any()  # their new times are remembered


def test_images_without_rows_and_rows_without_images_are_named_by_check(
    files: FakeFiles, tmp_path: Path
) -> None:
    prepare(tmp_path)
    (files.images / "000004.jpg").rename(files.images / "000099.jpg")
    found = check(tmp_path)["images"]
    assert found.found.startswith("22 of 23 in ")
    assert found.found.endswith("; 1 that no annotation names: 000099.jpg")


def test_change_that_keeps_size_and_time_is_found_by_check_and_prepare(
    files: FakeFiles, tmp_path: Path
) -> None:
    prepare(tmp_path)
    path = files.images / "000004.jpg"
    status = path.stat()
    other_image(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "; 1 changed: 000004.jpg" in check(tmp_path)["prepared rows"].found
    assert "1 of 23 images to prepare" in prepare(tmp_path).lines[0]


def test_image_that_is_broken_later_is_named_and_the_row_is_not_used(
    files: FakeFiles, tmp_path: Path
) -> None:
    prepare(tmp_path)
    path = files.images / "000004.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    assert "000004.jpg in" in refusal(load, tmp_path)
    assert refusal(prepare, tmp_path).startswith(f"{path} must be ")
    assert "(22 of 23 images are done, not 000004.jpg)" in refusal(load, tmp_path)


def test_images_that_cannot_be_prepared_are_named_by_check(
    files: FakeFiles, tmp_path: Path
) -> None:
    half = Image.open(files.images / "000003.jpg").resize((89, 109))
    half.save(files.images / "000003.jpg")
    (files.images / "000005.jpg").write_bytes(b"")
    found = check(tmp_path)["images"]
    assert "2 of 23 images cannot be prepared: " in found.found
    assert str(files.images / "000005.jpg") in found.found
    assert "an aligned image of 178x218 pixels, got 89x109" in found.found
    assert found.remedy.startswith("extract img_align_celeba.zip again")


# ---- prepared rows without all of the files


def test_prepared_images_are_used_without_the_files(files: FakeFiles, tmp_path: Path) -> None:
    prepare(tmp_path)
    before = everything(load(tmp_path), "train")[0]
    shutil.rmtree(files.images)
    assert torch.equal(everything(load(tmp_path), "train")[0], before)
    assert "is complete" in prepare(tmp_path).lines[0]
    assert "0 to be prepared" in check(tmp_path)["images"].found


def test_damaged_row_is_found_and_made_again_alone(files: FakeFiles, tmp_path: Path) -> None:
    prepare(tmp_path)
    whole = contents(tmp_path)
    path = next((tmp_path / "celeba" / "prepared").rglob("image.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = check(tmp_path)["prepared rows"]
    assert found.found.endswith("; 1 damaged: 000023.jpg")
    assert "rotograd data prepare celeba" in found.remedy
    for name in files.names[:-1]:
        (files.images / name).unlink()
    told = prepare(tmp_path)
    assert "1 of 23 images to prepare" in told.lines[0]
    assert contents(tmp_path) == whole
    assert check(tmp_path)["prepared rows"].ok


def test_prepared_images_on_a_read_only_disk_are_enough(
    files: FakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    monkeypatch.setattr(WritableArrays, "create", lambda *args: pytest.fail("wrote"))
    assert "is complete" in prepare(tmp_path).lines[0]


def test_source_file_is_refused(files: FakeFiles, tmp_path: Path) -> None:
    how = Told().how(source=files.images)
    with pytest.raises(ConfigError, match=r"`--from` has no meaning for CelebA"):
        CelebA.prepare(data_dir=tmp_path, options=OPTIONS, how=how)
