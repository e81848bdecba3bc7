"""NYUv2 on real files: MTAN's layout and a cut-down official file under ROTOGRAD_DATA."""

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from rotograd_cli.data.nyuv2.building import resized
from rotograd_cli.data.nyuv2.dataset import NYUv2
from rotograd_cli.data.nyuv2.layout import Layout
from rotograd_cli.data.nyuv2.official import open_official
from rotograd_cli.data.nyuv2.storage import decode_depth, decode_normal, encode
from tests.fake_nyuv2 import OPTIONS, prepare

pytestmark = pytest.mark.data
# which official frames the sample layout holds
IDS = {"train": (1, 2, 3, 9, 14, 15), "val": (16, 17, 18)}


@pytest.fixture
def samples() -> Path:
    root = os.environ.get("ROTOGRAD_DATA")
    if root is None:
        pytest.skip("ROTOGRAD_DATA is not set")
    folder = Path(root) / "nyuv2"
    if not (folder / "mtan" / "train").is_dir():
        pytest.skip(f"no sample of NYUv2 in {folder}")
    return folder


@pytest.fixture
def mini(samples: Path, tmp_path: Path) -> Path:
    """The cut-down official file, with a split that puts its frames where the samples are."""
    folder = tmp_path / "download"
    folder.mkdir()
    for name in ("classMapping40.mat", "class13Mapping.mat"):
        shutil.copy(samples / name, folder / name)
    split = {"trainNdxs": np.c_[IDS["train"]], "testNdxs": np.c_[IDS["val"]]}
    savemat(folder / "splits.mat", split)
    path = folder / "nyu_depth_v2_labeled.mat"
    path.symlink_to(samples / "nyu_depth_v2_labeled_mini.mat")
    return path


def sample_frames(samples: Path) -> Layout:
    return Layout.scan(samples / "mtan")


def frame_of(layout: Layout, part: Any, frame: int) -> dict[Any, np.ndarray]:
    files = layout.files(part, frame)
    return layout.read(files, [(layout.root / name).read_bytes() for name in files])


def test_building_from_the_official_file_gives_the_sample_layout(
    samples: Path, mini: Path, tmp_path: Path
) -> None:
    prepare(tmp_path, mini, limit=6)
    found, expected = Layout.scan(tmp_path / "nyuv2"), sample_frames(samples)
    for part, ids in (("train", IDS["train"]), ("val", IDS["val"])):
        for frame in range(len(ids)):
            new = frame_of(found, part, frame)
            old = frame_of(expected, part, frame)
            assert np.array_equal(new["label"], old["label"])
            assert np.array_equal(new["depth"], old["depth"])
            assert np.abs(new["image"] - old["image"]).max() < 1e-6


def test_the_official_split_is_read(samples: Path, tmp_path: Path) -> None:
    with open_official(samples / "nyu_depth_v2_labeled_mini.mat", tmp_path) as file:
        assert file.ids["train"].tolist() == [3]
        assert file.ids["val"].tolist() == [1, 2, 9, 14, 15, 16, 17, 18]
        frame = resized(file.read(3), None)
    expected = frame_of(sample_frames(samples), "train", 2)
    assert np.array_equal(frame["label"], expected["label"])


def test_estimated_normals_agree_with_the_samples(samples: Path, mini: Path) -> None:
    layout = sample_frames(samples)
    with open_official(mini, mini.parent) as file:
        for frame, frame_id in enumerate(IDS["train"]):
            new = resized(file.read(frame_id), None)["normal"].astype(np.float64)
            old = frame_of(layout, "train", frame)["normal"]
            angle = np.degrees(np.arccos(np.clip((new * old).sum(-1), -1, 1)))
            # the same convention; at edges and creases a window of one surface is taken
            assert np.median(angle) < 2.5
            assert (angle < 22.5).mean() > 0.85
            assert (new != 0).any(-1).all()


def test_errors_of_storage_on_real_frames_are_as_documented(samples: Path) -> None:
    layout = sample_frames(samples)
    for frame in range(6):
        source = frame_of(layout, "train", frame)
        rows = {name: torch.from_numpy(array)[None] for name, array in encode(source).items()}
        image = rows["image"][0].numpy().astype(np.float32) / np.float32(255)
        assert np.abs(image - source["image"]).max() < 1e-6
        assert np.array_equal(rows["label"][0], source["label"])
        depth = decode_depth(rows["depth"])[0, 0].numpy()
        assert np.abs(depth - source["depth"][..., 0]).max() < 2.0**-8  # below 10 m
        assert np.abs(depth / source["depth"][..., 0] - 1).max() <= 1 / 2048
        normal = decode_normal(rows["normal"])[0].permute(1, 2, 0).double().numpy()
        chord = np.linalg.norm(normal - source["normal"], axis=-1)
        assert np.degrees(chord.max()) < 0.0016


def test_the_sample_trains_on_its_first_frames(samples: Path, tmp_path: Path) -> None:
    shutil.copytree(samples / "mtan", tmp_path / "nyuv2" / "mtan", symlinks=False)
    prepare(tmp_path, limit=6)
    options = {**OPTIONS, "limit": 6}
    dataset = NYUv2(data_dir=tmp_path, tasks=None, device=torch.device("cpu"), **options)
    assert [dataset.num_examples(split) for split in ("train", "val", "test")] == [4, 2, 3]
    layout = sample_frames(samples)
    batch = dataset.batch("val", torch.arange(2))
    for position, frame in enumerate((4, 5)):
        image = frame_of(layout, "train", frame)["image"].transpose(2, 0, 1)
        np.testing.assert_allclose(batch.inputs[position].numpy(), image, atol=1e-6)
    assert all("ormals" not in note for note in dataset.notes)


def test_sample_file_is_the_format_that_we_write(samples: Path) -> None:
    with h5py.File(samples / "nyu_depth_v2_labeled_mini.mat", "r") as file:
        assert file["images"].shape == (9, 3, 640, 480)
        assert file.attrs["source_ids"].tolist() == [1, 2, 3, 9, 14, 15, 16, 17, 18]
