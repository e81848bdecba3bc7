"""Files in the formats of NYUv2, written by us, that take the place of the real ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from rotograd_cli.data.base import Preparation
from rotograd_cli.data.nyuv2 import layout, official
from rotograd_cli.data.nyuv2.dataset import NYUv2
from rotograd_cli.data.nyuv2.surface_normals import Camera

OPTIONS: dict[str, Any] = {
    "limit": None,
    "protocol": "exact",
    "read_ahead": 0,
    "normals": None,
}


def expect(monkeypatch: pytest.MonkeyPatch, num_train: int, num_test: int) -> None:
    """Makes these the official numbers of frames."""
    monkeypatch.setitem(layout.NUM_FRAMES, "train", num_train)
    monkeypatch.setitem(layout.NUM_FRAMES, "val", num_test)


def frame(seed: int) -> dict[layout.Kind, np.ndarray]:
    """A frame in MTAN's layout: noise, with patches of void, of no depth and of no normal."""
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, layout.SHAPES["image"]).astype(np.float32) / 255
    label = generator.integers(-1, 13, layout.SHAPES["label"]).astype(np.float32)
    depth = generator.uniform(0.7, 10, layout.SHAPES["depth"]).astype(np.float32)
    normal = generator.normal(size=layout.SHAPES["normal"])
    normal = (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32)
    depth[40:60, 50:90] = 0
    normal[200:230, :70] = 0
    return {"image": image, "label": label, "depth": depth, "normal": normal}


def write_layout(root: Path, num_train: int, num_test: int, dtype: str = "float32") -> None:
    """Writes MTAN's layout; training frame i is ``frame(i)``, test frame i ``frame(1000 + i)``."""
    parts = (("train", num_train, 0), ("val", num_test, 1000))
    for part, num, first in parts:
        for i in range(num):
            for kind, array in frame(first + i).items():
                path = root / part / kind / f"{i}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, array.astype(dtype))


def official_frame(frame_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, depth and labels among 894 of a frame in its full size."""
    generator = np.random.default_rng(frame_id)
    image = generator.integers(0, 256, (480, 640, 3), np.uint8)
    depth = generator.uniform(0.7, 10, (480, 640)).astype(np.float32)
    labels = generator.integers(0, 895, (480, 640)).astype(np.uint16)
    return image, depth, labels


def write_official(
    folder: Path, train_ids: Sequence[int], test_ids: Sequence[int], *, named: bool = True
) -> Path:
    """Writes the official file with these frames, split and class maps beside it.

    With ``named=False`` the file is like the real one: its frames are 1, 2, 3 ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = sorted([*train_ids, *test_ids])
    frames = [official_frame(frame_id) for frame_id in ids]
    path = folder / official.FILE
    with h5py.File(path, "w") as file:
        file["images"] = np.stack([image.transpose(2, 1, 0) for image, _, _ in frames])
        file["depths"] = np.stack([depth.T for _, depth, _ in frames])
        file["labels"] = np.stack([labels.T for _, _, labels in frames])
        if named:
            file.attrs["source_ids"] = ids
    split = {"trainNdxs": np.c_[train_ids], "testNdxs": np.c_[test_ids]}
    savemat(folder / "splits.mat", split)
    savemat(folder / "classMapping40.mat", {"mapClass": TO_40[None]})
    savemat(folder / "class13Mapping.mat", {"classMapping13": {"labels13": TO_13[None]}})
    return path


TO_40 = (np.arange(894) * 7 % 40 + 1).astype(np.uint8)
TO_13 = (np.arange(40) * 5 % 13 + 1).astype(np.uint8)


def how(source: Path | None = None, said: list[str] | None = None) -> Preparation:
    """Preparation with two threads that nobody listens to."""
    say = (lambda _: None) if said is None else said.append
    return Preparation(source=source, workers=2, say=say, progress=lambda *_: None)


def prepare(data_dir: Path, source: Path | None = None, **options: Any) -> None:
    """Prepares the data set with a few options changed."""
    NYUv2.prepare(data_dir=data_dir, options={**OPTIONS, **options}, how=how(source))


def resized_camera(camera: Camera, height: float, width: float) -> Camera:
    """Return the camera of an image whose sides are multiplied by these factors.

    Pixels are areas: the image of 640 columns covers u from -1/2 to 639 1/2.
    """
    return Camera(
        fx=width * camera.fx,
        fy=height * camera.fy,
        cx=width * (camera.cx + 0.5) - 0.5,
        cy=height * (camera.cy + 0.5) - 0.5,
    )
