"""NYUv2 from MTAN's layout: splits, rows, errors, notes."""

import pickle
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rotograd_cli.config.files import config_dir
from rotograd_cli.data.base import FileCheck
from rotograd_cli.data.nyuv2 import layout
from rotograd_cli.data.nyuv2.dataset import NYUv2
from rotograd_cli.data.nyuv2.layout import NUM_FRAMES, validation_frames
from rotograd_cli.data.nyuv2.storage import FIELDS, decode_depth, decode_normal, encode
from rotograd_cli.errors import ConfigError, DatasetError
from tests import fake_nyuv2
from tests.fake_nyuv2 import OPTIONS, frame, prepare, write_layout

CPU = torch.device("cpu")
ROOT = "paths.data_dir"


def build(data_dir: Path, tasks: Sequence[str] | None = None, **options: Any) -> NYUv2:
    return NYUv2(data_dir=data_dir, tasks=tasks, device=CPU, **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared subset: six training frames, two test frames."""
    folder = tmp_path_factory.mktemp("data")
    write_layout(folder / "nyuv2" / "mtan", 6, 2)
    prepare(folder, limit=6)
    return folder


def test_validation_list_is_ten_blocks_of_eight_neighbours() -> None:
    assert NUM_FRAMES == {"train": 795, "val": 654}
    assert validation_frames() == {i for i in range(795) if 4 <= i % 80 < 12}
    assert len(validation_frames()) == 80
    assert (config_dir().parent / "datasets" / "nyuv2" / "validation.txt").is_file()


def test_subset_splits_the_first_frames_by_the_list(data_dir: Path) -> None:
    dataset = build(data_dir, limit=6)
    assert [dataset.num_examples(split) for split in ("train", "val", "test")] == [4, 2, 2]
    sources = {"train": (0, 1, 2, 3), "val": (4, 5), "test": (1000, 1001)}
    for split, seeds in sources.items():
        batch = dataset.batch(split, torch.arange(len(seeds)))  # type: ignore[arg-type]
        expected = np.stack([frame(seed)["image"].transpose(2, 0, 1) for seed in seeds])
        np.testing.assert_allclose(batch.inputs.numpy(), expected, atol=1e-6)


def test_batch_equals_the_source_arrays_within_the_errors_of_storage(data_dir: Path) -> None:
    dataset = build(data_dir, limit=6)
    batch = dataset.batch("val", torch.tensor([1, 0]))
    for position, seed in enumerate((5, 4)):
        source = frame(seed)
        image = batch.inputs[position].permute(1, 2, 0).numpy()
        assert np.array_equal(np.rint(image * 255), np.rint(source["image"] * 255))
        assert np.array_equal(batch.targets["segmentation"][position], source["label"])
        depth = batch.targets["depth"][position, 0].numpy()
        expected = source["depth"][..., 0]
        assert (np.abs(depth - expected) <= expected / 2048 + 1e-7).all()
        normal = batch.targets["normals"][position].permute(1, 2, 0).numpy()
        assert np.abs(normal - source["normal"]).max() <= 1 / 65534 + 1e-7
        assert np.array_equal((normal != 0).any(-1), (source["normal"] != 0).any(-1))
        assert np.array_equal(depth == 0, expected == 0)


def test_fixed_point_normals_are_more_accurate_than_half_floats_of_the_same_size() -> None:
    source = frame(0)["normal"]
    stored = encode(frame(0))["normal"]
    error = np.abs(stored.astype(np.float32) / 32767 - source).max()
    assert error < 2e-5 < 1e-4 < np.abs(source.astype(np.float16) - source).max()


def test_nothing_becomes_zero_by_storage_and_zero_stays() -> None:
    source = frame(0)
    source["depth"][:] = 0
    source["depth"][:10] = 1e-9
    source["normal"][:] = 0
    source["normal"][0, :4] = [[1e-7, 0, 0], [-1e-7, 1e-8, 0], [0, 1e-7, 2e-7], [0, 0, -1e-9]]
    rows = {name: torch.from_numpy(array)[None] for name, array in encode(source).items()}
    depth = decode_depth(rows["depth"])[0, 0]
    assert (depth[:10] > 0).all()
    assert (depth[10:] == 0).all()
    normal = decode_normal(rows["normal"])[0].permute(1, 2, 0)
    assert torch.equal(
        normal[0, :4].sign(), torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1]])
    )
    assert (normal[0, 4:] == 0).all()
    assert (normal[1:] == 0).all()


def test_rows_have_the_declared_types() -> None:
    rows = encode(frame(0))
    assert set(rows) == set(FIELDS)
    for name, field in FIELDS.items():
        assert rows[name].shape == field.shape
        assert rows[name].dtype == field.dtype


def test_only_the_chosen_tasks_arrays_are_read(data_dir: Path) -> None:
    dataset = build(data_dir, ["depth"], limit=6)
    assert list(dataset.fields) == ["image", "depth"]
    assert list(dataset.batch("test", torch.tensor([0])).targets) == ["depth"]


def test_prepared_rows_suffice_when_the_layout_is_deleted(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "nyuv2" / "prepared", tmp_path / "nyuv2" / "prepared")
    dataset, original = build(tmp_path, limit=6), build(data_dir, limit=6)
    assert dataset.fingerprint == original.fingerprint
    checks = NYUv2.check_files(data_dir=tmp_path, options={**OPTIONS, "limit": 6})
    assert all(check.ok for check in checks)


@pytest.mark.parametrize("place", ["nyuv2", "NYUv2", "."])
def test_layout_is_found_in_the_usual_places(place: str, tmp_path: Path) -> None:
    write_layout(tmp_path / place, 5, 1, "float64")
    prepare(tmp_path, limit=5)
    assert build(tmp_path, limit=5).num_examples("val") == 1


def test_all_frames_are_demanded_without_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_layout(tmp_path / "nyuv2", 6, 2)
    with pytest.raises(DatasetError, match=r"must have 795 frames in train, got 6 .*data\.limit=N"):
        prepare(tmp_path)
    fake_nyuv2.expect(monkeypatch, 6, 2)
    prepare(tmp_path)
    assert build(tmp_path).notes == ()


def test_larger_limit_needs_only_the_missing_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_layout(tmp_path / "nyuv2", 7, 6)
    prepare(tmp_path, limit=5)
    with pytest.raises(DatasetError, match=r"not prepared in .*data prepare nyuv2 data\.limit=7"):
        build(tmp_path, limit=7)
    before = build(tmp_path, limit=5).fingerprint
    with made_rows(monkeypatch) as made:
        prepare(tmp_path, limit=7)
    assert sorted(made) == ["train/5", "train/6", "val/5"]
    assert build(tmp_path, limit=7).num_examples("test") == 6
    assert build(tmp_path, limit=5).fingerprint == before


def test_sets_of_earlier_versions_are_told_from_those_of_this_one(
    data_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(data_dir / "nyuv2" / "prepared", tmp_path / "nyuv2" / "prepared")
    (new,) = (tmp_path / "nyuv2" / "prepared").iterdir()
    old = shutil.copytree(new, new.with_name("0123456789abcdef"))
    (old / "sources.npy").unlink()
    assert build(tmp_path, limit=6).num_examples("test") == 2
    shutil.rmtree(new)
    with pytest.raises(DatasetError, match=r"0123456789abcdef cannot be read .* delete this fold"):
        build(tmp_path, limit=6)


# ---- files that change after they were prepared


@contextmanager
def made_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Frames that are read while the block runs."""
    made: list[str] = []
    read = layout.Layout.read

    def recorded(self: layout.Layout, files: Sequence[str], *rest: Any) -> Any:
        part, _, name = files[0].split("/")
        made.append(f"{part}/{name.removesuffix('.npy')}")
        return read(self, files, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(layout.Layout, "read", recorded)
        yield made


def prepared_rows(data_dir: Path, **options: Any) -> FileCheck:
    *_, found = NYUv2.check_files(data_dir=data_dir, options={**OPTIONS, **options})
    return found


def test_changed_files_are_named_and_their_rows_alone_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "train/depth/0.npy"
    write_layout(tmp_path / "nyuv2", 6, 2)
    prepare(tmp_path, limit=6)
    before = build(tmp_path, limit=6).fingerprint
    path = tmp_path / "nyuv2" / name
    np.save(path, np.roll(np.load(path), 1, axis=0))  # as many bytes
    command = f"run: rotograd data prepare nyuv2 data.limit=6 paths.data_dir={tmp_path}"
    with pytest.raises(DatasetError) as caught:
        build(tmp_path, limit=6)
    place = tmp_path / "nyuv2"
    changed = f"{name} in {place} changed after they were prepared"
    assert str(caught.value) == f"{changed}; {command}"
    found = prepared_rows(tmp_path, limit=6)
    assert not found.ok
    assert found.found.endswith(f"; 1 changed: {name}")
    assert found.remedy == command
    part, _, number = name.removesuffix(".npy").split("/")
    said: list[str] = []
    with made_rows(monkeypatch) as made:
        NYUv2.prepare(
            data_dir=tmp_path,
            options={**OPTIONS, "limit": 6},
            how=fake_nyuv2.how(said=said),
        )
    assert made == [f"{part}/{number}"]
    assert said[0].startswith(f"NYUv2: 1 of 8 frames to prepare (1 changed: {name}); they need ")
    assert said[-1].startswith("NYUv2 is prepared: 8 frames in ")
    assert prepared_rows(tmp_path, limit=6).ok
    after = build(tmp_path, limit=6).fingerprint
    assert after != before
    shutil.rmtree(tmp_path / "nyuv2" / "prepared")
    prepare(tmp_path, limit=6)
    assert build(tmp_path, limit=6).fingerprint == after


def test_new_frames_are_named_and_they_alone_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_layout(tmp_path / "nyuv2", 5, 1)
    prepare(tmp_path, limit=9)
    write_layout(tmp_path / "more", 6, 2)
    for name in ("train/*/5.npy", "val/*/1.npy"):
        for path in (tmp_path / "more").glob(name):
            path.rename(tmp_path / "nyuv2" / path.relative_to(tmp_path / "more"))
    with pytest.raises(DatasetError, match="NYUv2 is not prepared"):
        build(tmp_path, limit=9)
    found = prepared_rows(tmp_path, limit=9)
    assert found.found.endswith("; 2 new: train/image/5.npy, val/image/1.npy")
    with made_rows(monkeypatch) as made:
        prepare(tmp_path, limit=9)
    assert sorted(made) == ["train/5", "val/1"]
    assert build(tmp_path, limit=9).num_examples("test") == 2


def test_frames_that_disappear_are_named_and_forgotten_by_the_next_preparation(
    tmp_path: Path,
) -> None:
    write_layout(tmp_path / "nyuv2", 6, 1)
    prepare(tmp_path, limit=9)
    for path in (tmp_path / "nyuv2").glob("train/*/5.npy"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"train/image/5\.npy in .* disappeared"):
        build(tmp_path, limit=9)
    assert prepared_rows(tmp_path, limit=9).found.endswith("; 1 missing: train/image/5.npy")
    prepare(tmp_path, limit=9)
    assert prepared_rows(tmp_path, limit=9).ok
    assert build(tmp_path, limit=9).num_examples("val") == 1


def test_a_gap_in_the_numbers_is_named_and_nothing_is_dropped(tmp_path: Path) -> None:
    write_layout(tmp_path / "nyuv2", 8, 1)
    prepare(tmp_path, limit=9)
    (tmp_path / "nyuv2" / "train" / "label" / "2.npy").unlink()
    for path in (tmp_path / "nyuv2").glob("train/*/6.npy"):
        path.unlink()
    for action in (build, prepare):
        with pytest.raises(DatasetError) as caught:
            action(tmp_path, limit=9)
        names = "(train/label/2.npy, train/image/6.npy, train/label/6.npy and 2 more)"
        assert f"8 training and 1 test frames, got all but 5 {names}; put" in str(caught.value)
    train, *_ = NYUv2.check_files(data_dir=tmp_path, options={**OPTIONS, "limit": 9})
    assert not train.ok
    assert "7 image, 6 label, 7 depth, 7 normal" in train.found
    assert "absent: train/label/2.npy, train/image/6.npy" in train.found
    assert (
        "8 of each are wanted, named 0.npy, 1.npy and so on without a gap: add, rename"
        in train.remedy
    )
    assert prepared_rows(tmp_path, limit=9).remedy.startswith("put them there, renumber")


def test_files_that_are_no_frames_are_named(tmp_path: Path) -> None:
    write_layout(tmp_path / "nyuv2", 5, 1)
    for path in (tmp_path / "nyuv2").glob("train/image/*.npy"):
        path.rename(path.with_name(f"{path.stem:0>4}.npy"))
    with pytest.raises(DatasetError, match=r"got all but 5 .*; put .* \(0\.npy, 1\.npy and so on"):
        prepare(tmp_path, limit=5)
    train, *_ = NYUv2.check_files(data_dir=tmp_path, options={**OPTIONS, "limit": 5})
    assert "no image, 5 label" in train.found
    assert "rename" in train.remedy


def test_without_normals_the_other_tasks_are_trained(tmp_path: Path) -> None:
    write_layout(tmp_path / "nyuv2", 5, 1)
    write_layout(tmp_path / "whole" / "nyuv2", 5, 1)
    for part in ("train", "val"):
        shutil.rmtree(tmp_path / "nyuv2" / part / "normal")
    prepare(tmp_path, limit=5)
    prepare(tmp_path / "whole", limit=5)
    tasks = ["segmentation", "depth"]
    batch = build(tmp_path, tasks, limit=5).batch("train", torch.arange(4))
    expected = build(tmp_path / "whole", tasks, limit=5).batch("train", torch.arange(4))
    assert torch.equal(batch.inputs, expected.inputs)
    assert all(torch.equal(batch.targets[name], expected.targets[name]) for name in tasks)
    assert set(build(tmp_path, tasks, limit=5).augment(batch, torch.rand(4, 4)).targets) == {*tasks}
    assert all(
        check.ok for check in NYUv2.check_files(data_dir=tmp_path, options={**OPTIONS, "limit": 5})
    )
    with pytest.raises(DatasetError) as caught:
        build(tmp_path, limit=5)
    message = str(caught.value)
    assert "has no normal files, which the task normals needs; train without that task" in message
    assert "('tasks=[segmentation,depth]'), or put the folders train/normal and" in message
    assert message.endswith(f"run: rotograd data prepare nyuv2 data.limit=5 {ROOT}={tmp_path}")
    for part in ("train", "val"):
        shutil.copytree(
            tmp_path / "whole/nyuv2" / part / "normal", tmp_path / "nyuv2" / part / "normal"
        )
    with pytest.raises(DatasetError, match="NYUv2 is not prepared"):
        build(tmp_path, tasks, limit=5)
    prepare(tmp_path, limit=5)
    assert len(build(tmp_path, limit=5).tasks) == 3


NOT_ARRAYS = {
    "page": b"<!DOCTYPE html><html>quota exceeded</html>",
    "empty": b"",
    "archive": b"PK\x03\x04",
    "pickle": pickle.dumps([1]),
    "objects": b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117)
    + b"\n"
    + pickle.dumps([1]),
}


def test_what_is_no_array_is_named_without_advice_to_load_unsafely(tmp_path: Path) -> None:
    write_layout(tmp_path / "nyuv2", 5, 1)
    for content in NOT_ARRAYS.values():
        (tmp_path / "nyuv2" / "train" / "depth" / "1.npy").write_bytes(content)
        with pytest.raises(DatasetError) as caught:
            prepare(tmp_path, limit=5)
        found = f"found damaged or other content that begins with {content[:10]!r}"
        assert f"depth/1.npy must be a NumPy array, {found}" in str(caught.value)
        assert "pickle" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("image", lambda a: a[:100], r"must have shape \(288, 384, 3\), found \(100, 384, 3\)"),
        ("image", lambda a: a * 255, r"must lie in \[0, 1\], found 0 to 255"),
        ("label", lambda a: a + 1, r"must be whole numbers from -1 \(void\) to 12, found 0 to 13"),
        ("label", lambda a: a * 0.5, "must be whole numbers from -1"),
        ("depth", lambda a: a * np.nan, "must be finite, found 110592 values"),
        ("depth", lambda a: a * 1000, r"must be metres.* found 0 to "),
        ("normal", lambda a: a.astype(np.int64), "must be float32 or float64, found int64"),
        ("normal", lambda a: a * 2, r"must lie in \[-1, 1\]"),
    ],
)
def test_wrong_files_are_refused_by_name(
    kind: layout.Kind, change: Any, message: str, tmp_path: Path
) -> None:
    write_layout(tmp_path / "nyuv2", 5, 1)
    path = tmp_path / "nyuv2" / "train" / kind / "3.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(DatasetError, match=rf"{kind}/3\.npy {message}.*; replace this file"):
        prepare(tmp_path, limit=5)


def test_truncated_and_absent_files_are_refused_by_name(tmp_path: Path) -> None:
    write_layout(tmp_path / "nyuv2", 5, 1)
    path = tmp_path / "nyuv2" / "val" / "normal" / "0.npy"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"normal/0\.npy must be a NumPy array"):
        prepare(tmp_path, limit=5)
    path.unlink()
    with pytest.raises(DatasetError, match=r"got all but 1 \(val/normal/0\.npy\); put them"):
        prepare(tmp_path, limit=5)


def test_nothing_there_says_what_to_get(tmp_path: Path) -> None:
    message = rf"not in {tmp_path}.*lorenmt/mtan.*nyu_depth_v2_labeled\.mat.*data prepare nyuv2"
    with pytest.raises(DatasetError, match=message):
        build(tmp_path)
    with pytest.raises(DatasetError, match=message):
        prepare(tmp_path)
    checks = NYUv2.check_files(data_dir=tmp_path, options=OPTIONS)
    assert [check.ok for check in checks] == [False, False]
    assert "lorenmt/mtan" in checks[0].remedy


def test_unprepared_layout_says_which_command_to_run(tmp_path: Path) -> None:
    write_layout(tmp_path / "nyuv2", 5, 1)
    command = rf"rotograd data prepare nyuv2 data\.limit=5 paths\.data_dir={tmp_path}$"
    with pytest.raises(DatasetError, match=rf"not prepared in .*run: {command}"):
        build(tmp_path, limit=5)


def test_check_counts_the_files_of_every_folder(tmp_path: Path) -> None:
    write_layout(tmp_path / "nyuv2", 5, 1)
    (tmp_path / "nyuv2" / "train" / "depth" / "4.npy").unlink()
    train, test, _ = NYUv2.check_files(data_dir=tmp_path, options={**OPTIONS, "limit": 5})
    assert not train.ok
    assert "5 image, 5 label, 4 depth, 5 normal" in train.found
    assert test.ok
    train, test, _ = NYUv2.check_files(data_dir=tmp_path, options=OPTIONS)
    assert not test.ok
    assert "654 of each are wanted" in test.remedy


def test_options_out_of_range_are_refused() -> None:
    for options, message in (
        ({"limit": 4}, "`limit` must be at least 5, got 4"),
        ({"protocol": "mean"}, "`protocol` must be exact or mtan_batch, got 'mean'"),
        ({"read_ahead": -1}, "`read_ahead` must be at least 0, got -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(Path("nowhere"), **options)


def test_notes_name_the_subset_and_the_protocol(data_dir: Path) -> None:
    notes = build(data_dir, limit=6, protocol="mtan_batch").notes
    assert "first 6 of 795 training frames" in notes[0]
    assert "2 of 654 test frames" in notes[0]
    assert "mtan_batch" in notes[1]
    assert len(notes) == 2


def test_tasks_are_dense_and_count_their_pixels(data_dir: Path) -> None:
    dataset = build(data_dir, limit=6)
    assert [task.name for task in dataset.tasks] == ["segmentation", "depth", "normals"]
    assert [task.num_outputs for task in dataset.tasks] == [13, 1, 3]
    batch = dataset.batch("train", torch.arange(2))
    for task in dataset.tasks:
        assert task.map_shape == (288, 384)
        target = batch.targets[task.name]
        void = -1 if task.name == "segmentation" else 0
        if target.dim() == 4:
            target = target.abs().sum(1)
        assert task.num_labelled(batch.targets[task.name]) == (target != void).sum()


def test_augmentation_varies_examples_by_the_draws(data_dir: Path) -> None:
    dataset = build(data_dir, limit=6)
    batch = dataset.batch("train", torch.arange(2))
    varied = dataset.augment(batch, torch.full((2, dataset.num_draws), 0.4))
    assert varied.inputs.shape == batch.inputs.shape
    assert not torch.equal(varied.inputs, batch.inputs)
    same = dataset.augment(batch, torch.tensor([[0.0, 0.5, 0.5, 0.9]] * 2))  # s = 1, no flip
    assert torch.equal(same.inputs, batch.inputs)
