"""CelebA: pixels and targets as the files say, preparation, every broken file named."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision import datasets, transforms

from rotograd_cli.config.components import Constructor
from rotograd_cli.config.files import config_dir
from rotograd_cli.data.base import Split
from rotograd_cli.data.celeba import dataset as celeba_dataset
from rotograd_cli.data.celeba.files import ATTRIBUTE_FILE, ATTRIBUTES, MD5, PARTITION_FILE, SOURCE
from rotograd_cli.errors import ConfigError, DatasetError
from tests import fake_celeba
from tests.fake_celeba import (
    COUNTS,
    OPTIONS,
    FakeFiles,
    check,
    everything,
    load,
    prepare,
    refusal,
)

CPU = torch.device("cpu")
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SIZE = OPTIONS["image_size"]


@pytest.fixture
def files(tmp_path: Path) -> FakeFiles:
    return fake_celeba.write(tmp_path / "celeba")


# ---- what a batch holds


def test_pixels_are_those_of_the_published_pipeline(files: FakeFiles, tmp_path: Path) -> None:
    prepare(tmp_path)
    dataset = load(tmp_path)
    pipeline = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor()])
    for number, split in enumerate(SPLITS):
        inputs, _ = everything(dataset, split)
        names = [name for name, s in zip(files.names, files.splits, strict=True) if s == number]
        assert len(inputs) == len(names) == COUNTS[number]
        for value, name in zip(inputs, names, strict=True):
            with Image.open(files.images / name) as image:
                pixels = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
                assert torch.equal(value, pipeline(image))
            expected = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
            assert torch.equal((255 * value).round().to(torch.uint8), expected)
    assert inputs.is_contiguous()


def test_normalisation_is_that_of_each_channel(files: FakeFiles, tmp_path: Path) -> None:
    prepare(tmp_path)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
    plain, _ = everything(load(tmp_path), "train")
    inputs, _ = everything(load(tmp_path, mean=mean, std=std), "train")
    torch.testing.assert_close(inputs, transforms.Normalize(mean, std)(plain), rtol=0, atol=2e-6)


def test_targets_are_the_attributes_of_their_task(files: FakeFiles, tmp_path: Path) -> None:
    prepare(tmp_path)
    dataset = load(tmp_path)
    assert [task.name for task in dataset.tasks] == list(ATTRIBUTES)
    assert {task.metrics[0].name for task in dataset.tasks} == {"f1"}
    for number, split in enumerate(SPLITS):
        _, targets = everything(dataset, split)
        expected = (files.attributes[files.splits == number] + 1) // 2
        for column, name in enumerate(ATTRIBUTES):
            assert targets[name].tolist() == expected[:, column].tolist()
    chosen = load(tmp_path, ["Young", "Bald"])
    assert list(everything(chosen, "test")[1]) == ["Young", "Bald"]
    assert torch.equal(everything(chosen, "test")[1]["Bald"], targets["Bald"])


def test_limit_takes_the_first_of_each_split(files: FakeFiles, tmp_path: Path) -> None:
    prepare(tmp_path)
    whole, part = load(tmp_path), load(tmp_path, limit=3)
    for split in SPLITS:
        assert torch.equal(everything(part, split)[0], everything(whole, split)[0][:3])
    assert part.fingerprint != whole.fingerprint
    assert part.notes == ("subset: 3 / 3 / 3 of 162,770 / 19,867 / 19,962 images",)
    assert whole.notes == ("subset: 10 / 7 / 6 of 162,770 / 19,867 / 19,962 images",)


def test_without_a_limit_the_official_numbers_are_demanded(
    files: FakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for action in (load, prepare):
        message = refusal(action, tmp_path, limit=None)
        assert "must have 162,770 / 19,867 / 19,962 images" in message
        assert "got 10 / 7 / 6" in message
        assert message.endswith("is a subset on purpose, add data.limit=10 to the command.")
    fake_celeba.expect(monkeypatch)
    prepare(tmp_path, limit=None)
    assert load(tmp_path, limit=None).notes == ()
    assert load(tmp_path, limit=9).notes == ("subset: 9 / 7 / 6 of 10 / 7 / 6 images",)


def test_fingerprint_depends_on_the_content_alone(files: FakeFiles, tmp_path: Path) -> None:
    prepare(tmp_path)
    fingerprint = load(tmp_path).fingerprint
    assert load(tmp_path, ["Male"], read_ahead=0).fingerprint == fingerprint
    fake_celeba.write(tmp_path / "other" / "celeba", tree="official")
    prepare(tmp_path / "other", workers=1)
    assert load(tmp_path / "other").fingerprint == fingerprint
    prepare(tmp_path, image_size=8)
    assert load(tmp_path, image_size=8).fingerprint != fingerprint


# ---- layouts, and texts as they come


@pytest.mark.parametrize("tree", get_args(fake_celeba.Tree))
@pytest.mark.parametrize("folder", ["celeba", "CelebA", "."])
def test_every_layout_is_found(folder: str, tree: fake_celeba.Tree, tmp_path: Path) -> None:
    fake_celeba.write(tmp_path / folder, counts=(2, 1, 1), tree=tree)
    prepare(tmp_path)
    assert load(tmp_path).num_examples("train") == 2
    assert (tmp_path / folder / "prepared").is_dir()


def test_complete_folder_wins_over_one_with_less(files: FakeFiles, tmp_path: Path) -> None:
    fake_celeba.write(tmp_path / "CelebA", counts=(2, 1, 1))
    files.partition_file.unlink()
    prepare(tmp_path)
    assert load(tmp_path).num_examples("train") == 2


LINE_ENDS: tuple[Callable[[bytes], bytes], ...] = (
    lambda content: content.replace(b"\r\n", b"\n"),
    lambda content: content.replace(b"\r\n", b" \t\r\n"),
    lambda content: content + b"\r\n\r\n \r\n",
    lambda content: content.removesuffix(b"\r\n"),
    lambda content: b"\xef\xbb\xbf" + content,
)


def test_line_ends_and_blanks_change_nothing(files: FakeFiles, tmp_path: Path) -> None:
    prepare(tmp_path)
    fingerprint = load(tmp_path).fingerprint
    published = {path: path.read_bytes() for path in (files.attributes_file, files.partition_file)}
    for change in LINE_ENDS:
        for path, content in published.items():
            path.write_bytes(change(content))
        assert load(tmp_path).fingerprint == fingerprint  # the very rows that were prepared
        shutil.rmtree(tmp_path / "celeba" / "prepared")
        prepare(tmp_path)  # which reads the attributes, too
        assert load(tmp_path).fingerprint == fingerprint


# ---- absent files


def test_absent_data_are_said_with_place_source_and_licence(tmp_path: Path) -> None:
    for action in (load, prepare):
        message = refusal(action, tmp_path)
        for words in (ATTRIBUTE_FILE, PARTITION_FILE, "img_align_celeba", str(tmp_path / "celeba")):
            assert words in message
        for words in (SOURCE, "non-commercial research", "ROTOGRAD_DATA"):
            assert words in message
    found = check(tmp_path)
    assert not any(entry.ok for entry in found.values())
    for name in (ATTRIBUTE_FILE, PARTITION_FILE):
        assert SOURCE in found[name].remedy
        assert "img_align_celeba" in found[name].remedy
    for name in ("images", "prepared rows"):  # said once, beside the file at fault
        assert found[name].found == "not looked at"
        assert found[name].remedy == "fix the annotation files first."


def test_only_what_is_absent_is_asked_for(files: FakeFiles, tmp_path: Path) -> None:
    files.partition_file.unlink()
    message = refusal(load, tmp_path)
    assert message.startswith(f"{PARTITION_FILE} is not in {tmp_path / 'celeba'}; put ")
    assert ATTRIBUTE_FILE not in message
    assert "img_align_celeba" not in message


def test_archive_that_is_not_extracted_is_said(files: FakeFiles, tmp_path: Path) -> None:
    shutil.rmtree(files.images)
    archive = tmp_path / "celeba" / "img_align_celeba.zip"
    archive.write_bytes(b"PK")
    remedy = f"extract {archive} into {archive.parent}"
    assert refusal(prepare, tmp_path).endswith(f"; {remedy}.")
    assert f"{remedy}, then run: rotograd data prepare celeba" in refusal(load, tmp_path)
    assert check(tmp_path)["images"].remedy == f"{remedy}."


def test_images_that_are_not_prepared_are_said_with_the_command(
    files: FakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(load, tmp_path, image_size=16, limit=20)
    assert "CelebA at 16x16 is not prepared in " in message
    options = f"data.image_size=16 data.limit=20 paths.data_dir={tmp_path}"
    command = f"run: rotograd data prepare celeba {options}"
    assert message.endswith(command)
    prepare(tmp_path, limit=2)
    assert "(6 of 23 images are done, not " in refusal(load, tmp_path, limit=20)
    assert check(tmp_path, limit=20)["prepared rows"].remedy == command
    fake_celeba.expect(monkeypatch)
    message = refusal(load, tmp_path, image_size=64, limit=None)
    assert message.endswith(f"run: rotograd data prepare celeba paths.data_dir={tmp_path}")
    monkeypatch.setenv("ROTOGRAD_DATA", str(tmp_path))
    message = refusal(load, tmp_path, image_size=64, limit=None)
    assert message.endswith("run: rotograd data prepare celeba")  # the default root and options


def test_the_command_leaves_out_what_the_yaml_file_says() -> None:
    content = yaml.safe_load((config_dir() / "data" / "celeba.yaml").read_text(encoding="utf-8"))
    assert content["image_size"] == celeba_dataset.YAML_SIZE
    assert content["limit"] is None


# ---- broken annotations


def in_line(number: int, old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.split("\r\n")
        assert old in lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(old, new, 1)
        return "\r\n".join(lines)

    return change


PAGE = "<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
LISTS = "attributes of CelebA, each once, got"
VALUES = "40 of -1, 1 each, got"
BROKEN_ATTRIBUTES: dict[str, tuple[Callable[[str], str], str]] = {
    "page": (lambda text: f"\n{PAGE}", f"{LISTS} <!DOCTYPE"),
    "empty": (lambda text: "", f"{LISTS} none"),
    "no number": (lambda text: text.split("\r\n", 1)[1], f"{LISTS} 000001.jpg"),
    "truncated": (lambda text: text[: len(text) // 2], r"first line, 23, got 1\d|columns"),
    "one row more": (lambda text: f"{text}a.jpg\r\n", f"{VALUES} other content"),
    "39 names": (in_line(2, "Bald ", ""), "39 of -1, 1 each, got other content"),
    "other name": (in_line(2, "Bald", "bald"), f"{LISTS} bald"),
    "name twice": (in_line(2, "Bald", "Bangs"), f"{LISTS} Bangs twice"),
    "value 0": (in_line(7, " 1", " 0"), f"{VALUES} 0"),
    "39 values": (in_line(7, " 1", ""), f"{VALUES} other content"),
    "41 values": (in_line(7, " 1", " 1 1"), f"{VALUES} other content"),
    "blank line": (lambda text: in_line(7, text.split("\r\n")[6], "")(text), "line, 23, got 22"),
    "fraction": (in_line(7, " 1", " 1.0"), f"{VALUES} other content"),
    "other image": (in_line(7, "000005.jpg", "../005.jpg"), f"{VALUES} ../005.jpg"),
    "image twice": (in_line(7, "000005", "000006"), "every image once, got 000006.jpg twice"),
}
BROKEN_PARTITION: dict[str, tuple[Callable[[str], str], str]] = {
    "page": (lambda text: PAGE, "1 of 0, 1, 2 each, got other content"),
    "empty": (lambda text: "", "1 of 0, 1, 2 each, got other content"),
    "split 3": (in_line(4, ".jpg ", ".jpg 3"), r"1 of 0, 1, 2 each, got 3\d"),
    "no split": (in_line(4, "000004.jpg ", "000004.jpg"), "0, 1, 2 each, got other content"),
    "other name": (
        in_line(4, "000004", "000099"),
        "file in the same order, got 000099.jpg instead of 000004.jpg",
    ),
    "image twice": (
        in_line(4, "000004", "000009"),
        "every image once, got 000009.jpg twice",
    ),
    "one fewer": (lambda text: text[:-14], "got 22 instead of 23"),
}


def check_broken(path: Path, change: Callable[[str], str], text: str, data_dir: Path) -> None:
    path.write_bytes(change(path.read_bytes().decode()).encode())
    message = refusal(prepare, data_dir)
    assert message.startswith(f"{path} must be ")
    assert re.search(text, message)
    assert message.endswith(f"; correct it, or download it again from {SOURCE}.")
    found = check(data_dir)[path.name]
    assert not found.ok
    assert re.search(text, f"{found.found};")
    assert SOURCE in found.remedy
    assert not (data_dir / "celeba" / "prepared").exists()


def test_broken_annotation_file_is_named_with_its_fault(tmp_path: Path) -> None:
    kinds = {"attributes_file": BROKEN_ATTRIBUTES, "partition_file": BROKEN_PARTITION}
    for file, broken in kinds.items():
        for number, (change, text) in enumerate(broken.values()):
            root = tmp_path / f"{file}{number}"
            files = fake_celeba.write(root / "celeba")
            check_broken(getattr(files, file), change, text, root)
            others = {"attributes_file": PARTITION_FILE, "partition_file": ATTRIBUTE_FILE}
            assert check(root)[others[file]].ok  # the other file is not blamed


def test_split_without_images_is_refused(tmp_path: Path) -> None:
    fake_celeba.write(tmp_path / "celeba", counts=(3, 0, 2))
    message = refusal(prepare, tmp_path)
    assert "must have images for training, validation and test, got 3 / 0 / 2" in message


# ---- broken images


def as_jpeg(size: tuple[int, int], kind: str = "JPEG") -> Callable[[Path], None]:
    return lambda path: Image.new("RGB", size).save(path, kind)


BROKEN_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:2000]), "truncated"),
    "page": (lambda path: path.write_text(PAGE), "not a JPEG image"),
    "empty": (lambda path: path.write_bytes(b""), "not a JPEG image"),
    "PNG": (as_jpeg((178, 218), "PNG"), "not a JPEG image"),
    "other size": (as_jpeg((218, 178)), "aligned image of 178x218 pixels, got 218x178"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
}


@pytest.mark.parametrize("kind", BROKEN_IMAGES)
def test_broken_image_is_named_and_the_others_are_kept(
    kind: str, files: FakeFiles, tmp_path: Path
) -> None:
    damage, text = BROKEN_IMAGES[kind]
    path = files.images / "000007.jpg"
    whole = path.read_bytes()
    damage(path)
    message = refusal(prepare, tmp_path)
    assert message.startswith(f"{path} must be ")
    assert text in message
    remedy = "get it" if kind == "folder" else "extract img_align_celeba.zip again, or download it"
    assert f"; {remedy} again" in message
    if path.is_dir():
        path.rmdir()
    path.write_bytes(whole)
    prepare(tmp_path)
    assert load(tmp_path).num_examples("train") == COUNTS[0]


def test_absent_images_are_counted_before_anything_is_decoded(
    files: FakeFiles, tmp_path: Path
) -> None:
    for name in ("000003.jpg", "000008.jpg"):
        (files.images / name).unlink()
    message = refusal(prepare, tmp_path)
    assert f"{files.images} must hold 23 images" in message
    assert "got all but 2 (000003.jpg, 000008.jpg); extract img_align_celeba.zip" in message
    assert message.endswith("out of both annotation files and set data.limit=N for a subset.")
    assert not (tmp_path / "celeba" / "prepared").exists()
    found = check(tmp_path)["images"]
    assert "all but 2 (000003.jpg, 000008.jpg)" in found.found
    assert found.remedy.startswith("extract img_align_celeba.zip again")


def test_grey_image_is_read_as_three_equal_channels(files: FakeFiles, tmp_path: Path) -> None:
    for name in files.names:
        Image.new("L", (178, 218), 77).save(files.images / name)
    prepare(tmp_path)
    assert everything(load(tmp_path), "test")[0].mul(255).unique().tolist() == [77]


# ---- as people have them


def as_kaggle_has_them(files: FakeFiles) -> None:
    """Turns published files into the tables and the nested folder of Kaggle's archive."""
    _, names, *rows = files.attributes_file.read_text().splitlines()
    files.attributes_file.unlink()
    lines = [["image_id", *names.split()], *(row.split() for row in rows)]
    text = "".join(f"{','.join(words)}\n" for words in lines)
    files.attributes_file.with_suffix(".csv").write_text(text)
    lines = [
        ["image_id", "partition"],
        *map(str.split, files.partition_file.read_text().splitlines()),
    ]
    files.partition_file.unlink()
    text = "".join(f"{','.join(words)}\n" for words in lines)
    files.partition_file.with_suffix(".csv").write_text(text)
    moved = files.images.rename(files.images.with_name("moved"))
    files.images.mkdir()
    moved.rename(files.images / "img_align_celeba")


@pytest.mark.parametrize("folder", ["celeba", "celeba-dataset", "."])
def test_kaggles_files_are_the_published_ones(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_celeba.write(tmp_path / "published" / "celeba")
    prepare(tmp_path / "published")
    as_kaggle_has_them(fake_celeba.write(tmp_path / "kaggle" / folder))
    prepare(tmp_path / "kaggle")
    fingerprint = load(tmp_path / "kaggle").fingerprint
    assert fingerprint == load(tmp_path / "published").fingerprint
    fake_celeba.expect(monkeypatch)
    found = check(tmp_path / "kaggle", limit=None)
    assert all(entry.ok for entry in found.values())
    assert "Kaggle's form, which has no published checksum" in found[ATTRIBUTE_FILE].found


def test_fault_in_a_table_of_kaggle_is_named(files: FakeFiles, tmp_path: Path) -> None:
    as_kaggle_has_them(files)
    path = files.attributes_file.with_suffix(".csv")
    lines = path.read_text().splitlines()
    lines[6] = lines[6].replace(",1", ",2", 1)
    path.write_text("\n".join(lines))
    assert f"{path} must be a file of images" in refusal(load, tmp_path)
    assert refusal(load, tmp_path).endswith(
        f"of -1, 1 each, got 2; correct it, or download it again from {SOURCE}."
    )


def test_attribute_file_may_hold_some_attributes_in_any_order(
    files: FakeFiles, tmp_path: Path
) -> None:
    prepare(tmp_path)
    whole = everything(load(tmp_path), "train")[1]
    columns = [ATTRIBUTES.index(name) for name in ("Young", "Bald", "Male")]
    lines = files.attributes_file.read_text().splitlines()
    lines[1] = "Young Bald Male"
    for number, line in enumerate(lines[2:], 2):
        name, *values = line.split()
        lines[number] = " ".join([name, *(values[column] for column in columns)])
    files.attributes_file.write_text("\n".join(lines))
    dataset = load(tmp_path)
    assert [task.name for task in dataset.tasks] == ["Bald", "Male", "Young"]
    targets = everything(dataset, "train")[1]
    assert all(torch.equal(targets[name], whole[name]) for name in ("Young", "Bald", "Male"))
    assert dataset.notes[-1] == "subset: 3 of 40 attributes"
    found = check(tmp_path)[ATTRIBUTE_FILE]
    assert found.ok
    assert "3 of 40 attributes" in found.found
    with pytest.raises(DatasetError, match=r"attribute Smiling, .* got 3 others; get the"):
        load(tmp_path, ["Bald", "Smiling"])


# ---- check


def test_check_is_content_once_everything_is_there(
    files: FakeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = check(tmp_path)
    assert [entry.ok for entry in found.values()] == [True, True, True, False]
    assert "not the official file" in found[ATTRIBUTE_FILE].found
    prepare(tmp_path)
    assert all(entry.ok for entry in check(tmp_path).values())
    fake_celeba.expect(monkeypatch)
    found = check(tmp_path, limit=None)
    for name in (ATTRIBUTE_FILE, PARTITION_FILE):
        assert "not the official file" in found[name].found
        assert "data.limit=N" in found[name].remedy
    assert check_writes_nothing(tmp_path)


def check_writes_nothing(data_dir: Path) -> bool:
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    check(data_dir)
    return before == {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}


# ---- options


def test_bad_option_is_refused_before_files_are_looked_for(tmp_path: Path) -> None:
    for changes, text in (
        ({"image_size": 0}, "`image_size` must be at least 1, got 0."),
        ({"limit": 0}, "`limit` must be at least 1, got 0."),
        ({"read_ahead": -1}, "`read_ahead` must be at least 0, got -1."),
    ):
        with pytest.raises(ConfigError, match=f"^{text}$"):
            load(tmp_path / "absent", **changes)


def test_bad_option_of_a_file_is_refused_for_every_command() -> None:
    node = {"_target_": "rotograd_cli.data.celeba.CelebA", **OPTIONS}
    for changes, text in (
        ({"image_size": 0}, "`data.image_size` must be at least 1, got 0."),
        ({"mean": [0.5]}, "`data.mean` has a wrong value"),
        ({"std": [1.0, 0.0, 1.0]}, r"`data.std` has a wrong value: .*, got \[1.0, 0.0, 1.0\]"),
    ):
        with pytest.raises(ConfigError, match=text):
            Constructor({**node, **changes}, "data", "data_dir", "tasks", "device")


def test_checksums_are_those_of_torchvisions_list() -> None:
    listed = {name: md5 for _, md5, name in datasets.CelebA.file_list}
    assert {name: listed[name] for name in MD5} == MD5


def test_readme_lists_the_checksums_that_are_verified() -> None:
    readme = Path(__file__).parents[2] / "datasets" / "celeba" / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, md5 in MD5.items():
        assert f"| `{name}` | `{md5}` |" in text


# ---- the real files


@pytest.mark.data
def test_real_files_are_read(tmp_path: Path) -> None:
    root = os.environ.get("ROTOGRAD_DATA")
    if root is None or not (Path(root) / "celeba").is_dir():
        pytest.skip("ROTOGRAD_DATA has no celeba")
    source = Path(root) / "celeba"
    shutil.copytree(source, tmp_path / "celeba", ignore=shutil.ignore_patterns("prepared"))
    told = prepare(tmp_path, image_size=64, limit=20)
    assert "is prepared" in told.lines[-1]
    dataset = load(tmp_path, image_size=64, limit=20)
    first = dataset.batch("train", torch.tensor([0]))
    name = (source / PARTITION_FILE).read_text().split()[0]
    with Image.open(source / "img_align_celeba" / name) as image:
        pipeline = transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor()])
        assert torch.equal(first.inputs[0], pipeline(image))
    words = (source / ATTRIBUTE_FILE).read_text().splitlines()[2].split()[1:]
    assert [int(first.targets[name]) for name in ATTRIBUTES] == [int(x == "1") for x in words]
    assert all(entry.ok for entry in check(tmp_path, image_size=64, limit=20).values())
