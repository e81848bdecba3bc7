"""From the official file to MTAN's layout, and the normals of others."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from rotograd_cli.data.nyuv2.dataset import NYUv2
from rotograd_cli.data.nyuv2.surface_normals import KINECT, estimate_normals
from rotograd_cli.errors import DatasetError
from tests import fake_nyuv2
from tests.fake_nyuv2 import (
    OPTIONS,
    TO_13,
    TO_40,
    how,
    official_frame,
    prepare,
    write_layout,
    write_official,
)

TRAIN, TEST = (2, 3, 5, 8, 13, 21), (1, 4, 1449)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with the layout and the rows built from a cut-down official file elsewhere."""
    folder = tmp_path_factory.mktemp("built")
    source = write_official(folder / "download", TRAIN, TEST)
    prepare(folder / "data", source, limit=6)
    return folder / "data"


def load(data_dir: Path, part: str, kind: str, frame: int) -> np.ndarray:
    array: np.ndarray = np.load(data_dir / "nyuv2" / part / kind / f"{frame}.npy")
    return array


def test_frames_are_numbered_by_their_position_in_the_split(built: Path) -> None:
    for part, ids in (("train", TRAIN), ("val", TEST)):
        for kind in ("image", "label", "depth", "normal"):
            files = list((built / "nyuv2" / part / kind).glob("*"))
            assert len(files) == len(ids)
        for frame, frame_id in enumerate(ids):
            _, depth, _ = official_frame(frame_id)
            rows = ((np.arange(288) + 0.5) * 480 / 288).astype(int)
            columns = ((np.arange(384) + 0.5) * 640 / 384).astype(int)
            expected = depth[rows][:, columns]
            assert np.array_equal(load(built, part, "depth", frame)[..., 0], expected)


def test_labels_go_from_894_through_40_to_13_classes(built: Path) -> None:
    _, _, labels = official_frame(TRAIN[1])
    label = load(built, "train", "label", 1)
    assert label.dtype == np.float32
    # 288 = 480 * 3/5: every third of five rows is the middle one, pixel 1 is under pixel 2
    for row, column, source_row, source_column in ((1, 1, 2, 2), (4, 7, 7, 12), (287, 0, 479, 0)):
        name = int(labels[source_row, source_column])
        expected = -1 if name == 0 else int(TO_13[TO_40[name - 1] - 1]) - 1
        assert label[row, column] == expected
    assert label.min() == -1
    assert label.max() == 12


def test_images_are_averaged_and_in_the_unit_interval(built: Path) -> None:
    image, _, _ = official_frame(TEST[2])
    found = load(built, "val", "image", 2)
    expected = Image.fromarray(image).resize((384, 288), Image.Resampling.BILINEAR)
    assert np.array_equal(np.rint(found * 255), np.asarray(expected))
    assert found.std() < 0.7 * image.std() / 255  # noise is averaged, not picked


def test_normals_are_estimated_at_full_size_and_that_is_said(built: Path) -> None:
    _, depth, _ = official_frame(TEST[0])
    rows = ((np.arange(288) + 0.5) * 480 / 288).astype(int)
    columns = ((np.arange(384) + 0.5) * 640 / 384).astype(int)
    expected = estimate_normals(depth, KINECT)[rows][:, columns]
    assert np.array_equal(load(built, "val", "normal", 0), expected)
    options = {**OPTIONS, "limit": 6}
    dataset = NYUv2(data_dir=built, tasks=None, device=torch.device("cpu"), **options)
    assert "Normals estimated from depth" in dataset.notes[0]
    assert "without MTAN's crop" in dataset.notes[0]
    assert "A subset" in dataset.notes[1]
    assert [dataset.num_examples(split) for split in ("train", "val", "test")] == [4, 2, 3]


@pytest.mark.slow
def test_a_file_like_the_real_one_has_the_ids_from_one_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nyuv2.expect(monkeypatch, 5, 2)
    train, test = (1, 2, 4, 5, 7), (3, 6)
    source = write_official(tmp_path / "nyuv2", train, test, named=False)
    prepare(tmp_path, source)
    _, depth, _ = official_frame(4)
    assert load(tmp_path, "train", "depth", 2)[0, 0, 0] == depth[0, 0]
    checks = NYUv2.check_files(data_dir=tmp_path, options=OPTIONS)
    assert all(check.ok for check in checks)
    assert {"nyu_depth_v2_labeled.mat", "splits.mat"} <= {check.what for check in checks}


@pytest.mark.slow
def test_a_subset_first_and_the_rest_later_keeps_what_is_there(tmp_path: Path) -> None:
    source = write_official(tmp_path / "nyuv2", TRAIN, TEST)
    prepare(tmp_path, source, limit=5)
    image = tmp_path / "nyuv2" / "train" / "image"
    assert len(list(image.glob("*"))) == 5
    first = (image / "0.npy").stat().st_mtime_ns
    (tmp_path / "nyuv2" / "train" / "depth" / "3.npy").unlink()  # as an interruption leaves it
    resumed = r"got all but 5 \(.*interrupted: repeat the command that began it, with its --from"
    with pytest.raises(DatasetError, match=resumed):
        prepare(tmp_path, limit=6)
    prepare(tmp_path, source, limit=6)
    assert (image / "0.npy").stat().st_mtime_ns == first
    assert (tmp_path / "nyuv2" / "train" / "depth" / "3.npy").is_file()
    assert len(list((tmp_path / "nyuv2" / "prepared").glob("[!.]*"))) == 1
    assert not list((tmp_path / "nyuv2").rglob(".*"))


@pytest.mark.slow
def test_frames_of_different_origins_are_never_mixed(tmp_path: Path) -> None:
    source = write_official(tmp_path / "download", TRAIN, TEST)
    write_layout(tmp_path / "other" / "nyuv2", 5, 1)
    with pytest.raises(DatasetError, match=r"frames of another origin.*without --from"):
        prepare(tmp_path / "other", source, limit=5)
    prepare(tmp_path, source, limit=5)
    other = write_official(tmp_path / "other_download", TRAIN, TEST)
    with h5py.File(other, "r+") as file:
        file["labels"][0, 0, 0] += 1
    with pytest.raises(DatasetError, match=r"built otherwise \(checksum: .*delete its folders"):
        prepare(tmp_path, other, limit=5)
    folder = tmp_path / "nyuv2" / "mine"
    write_normals(folder, (*TRAIN, *TEST))
    with pytest.raises(DatasetError, match=r"built otherwise \(normals: estimated.*delete its"):
        prepare(tmp_path, source, limit=5, normals="mine")
    write_official(tmp_path / "download", TRAIN[:-1], TEST)
    with pytest.raises(DatasetError, match="built otherwise"):
        prepare(tmp_path, source, limit=5)


def write_normals(folder: Path, ids: tuple[int, ...]) -> None:
    folder.mkdir(parents=True)
    for frame_id in ids:
        normals = np.zeros((480, 640, 3))
        normals[:, 320:] = [0, 3.0, frame_id]
        np.save(folder / f"{frame_id}.npy", normals)


@pytest.mark.slow
def test_normals_by_official_id_are_taken_instead_of_an_estimate(tmp_path: Path) -> None:
    source = write_official(tmp_path / "nyuv2", TRAIN, TEST)
    write_normals(tmp_path / "nyuv2" / "mine", (*TRAIN, *TEST))
    prepare(tmp_path, source, limit=6, normals="mine")
    normal = load(tmp_path, "train", "normal", 4)
    assert (normal[:, :192] == 0).all()
    expected = np.array([0, 3, 13]) / np.hypot(3, 13)
    np.testing.assert_allclose(normal[100, 200], expected, atol=1e-6)
    options = {**OPTIONS, "limit": 6}
    dataset = NYUv2(data_dir=tmp_path, tasks=None, device=torch.device("cpu"), **options)
    assert "read from files in mine" in dataset.notes[0]


@pytest.mark.slow
def test_the_archive_is_found_and_decoded(tmp_path: Path) -> None:
    source = write_official(tmp_path / "nyuv2", TRAIN, TEST)
    folder = tmp_path / "nyuv2" / "normals_gt"
    (folder / "normals").mkdir(parents=True)
    (folder / "masks").mkdir()
    for frame_id in (*TRAIN, *TEST):
        colours = np.full((480, 640, 3), (127 + 76, 127, 127 - 102), np.uint8)  # 0.6, 0, -0.8
        colours[:100] = 127  # grey
        mask = np.full((480, 640), 255, np.uint8)
        mask[:, :320] = 0
        Image.fromarray(colours).save(folder / "normals" / f"{frame_id - 1:04d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{frame_id - 1:04d}.png")
    said: list[str] = []
    options = {**OPTIONS, "limit": 6}
    NYUv2.prepare(data_dir=tmp_path, options=options, how=how(source, said))
    assert "normals: read from the archive normals_gt" in said[0]
    normal = load(tmp_path, "val", "normal", 2)
    np.testing.assert_allclose(normal[200, 300], [0.6, 0, -0.8], atol=5e-3)
    np.testing.assert_allclose(np.linalg.norm(normal[200, 300]), 1, atol=1e-6)
    assert (normal[:, :192] == 0).all()
    assert (normal[:60] == 0).all()
    (folder / "masks" / "0000.png").unlink()
    (tmp_path / "nyuv2" / "val" / "normal" / "0.npy").unlink()
    with pytest.raises(DatasetError, match=r"masks/0000\.png must be an image"):
        prepare(tmp_path, source, limit=6)


@pytest.mark.slow
def test_normals_asked_for_must_be_there(tmp_path: Path) -> None:
    source = write_official(tmp_path / "nyuv2", TRAIN, TEST)
    with pytest.raises(DatasetError, match=r"`data\.normals` must name a folder.*got .*mine;"):
        prepare(tmp_path, source, limit=6, normals="mine")
    write_normals(tmp_path / "nyuv2" / "mine", (*TRAIN, *TEST))
    (tmp_path / "nyuv2" / "mine" / "1.npy").unlink()
    with pytest.raises(DatasetError, match=r"mine/1\.npy must be a NumPy array, found No such"):
        prepare(tmp_path, source, limit=6, normals="mine")
    np.save(tmp_path / "nyuv2" / "mine" / "1.npy", np.zeros((288, 384, 3)))
    with pytest.raises(DatasetError, match=r"must be float with shape \(480, 640, 3\)"):
        prepare(tmp_path, source, limit=6, normals="mine")


def test_small_files_that_are_absent_are_named_with_their_source(tmp_path: Path) -> None:
    source = write_official(tmp_path / "download", TRAIN, TEST)
    (tmp_path / "download" / "class13Mapping.mat").unlink()
    with pytest.raises(DatasetError, match=r"class13Mapping\.mat .*neither .*nyuv2-meta-data"):
        prepare(tmp_path, source, limit=6)
    (tmp_path / "nyuv2").mkdir()
    content = {"classMapping13": {"labels13": TO_13[None, :20]}}
    savemat(tmp_path / "nyuv2" / "class13Mapping.mat", content)
    with pytest.raises(DatasetError, match="must map 40 classes"):
        prepare(tmp_path, source, limit=6)
    savemat(tmp_path / "nyuv2" / "class13Mapping.mat", {"other": 1})
    with pytest.raises(DatasetError, match="must be a MATLAB file with `classMapping13`"):
        prepare(tmp_path, source, limit=6)
    assert not (tmp_path / "nyuv2" / "train").exists()


def test_a_source_that_is_not_the_official_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    with pytest.raises(DatasetError, match=r"must be nyu_depth_v2_labeled\.mat \(HDF5\)"):
        prepare(tmp_path, path, limit=6)
    path.write_text("<html>not found</html>")
    with pytest.raises(DatasetError, match=r"must be nyu_depth_v2_labeled\.mat \(HDF5\)"):
        prepare(tmp_path, path, limit=6)
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((2, 3, 480, 640), np.uint8)
    with pytest.raises(DatasetError, match=r"shapes .*'images': \(\d+, 3, 640, 480\)"):
        prepare(tmp_path, path, limit=6)


@pytest.mark.slow
def test_too_few_frames_of_a_part_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = write_official(tmp_path / "download", TRAIN[:3], TEST)
    with pytest.raises(DatasetError, match="a subset of at least 5 on purpose"):
        prepare(tmp_path, source, limit=6)
    with pytest.raises(DatasetError, match="must have 795 frames in train, got 3"):
        prepare(tmp_path, source)
    assert not (tmp_path / "nyuv2").exists()
