"""CelebA's annotations: attributes and partition, as published or as Kaggle's tables."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rotograd_cli.data.base import Split
from rotograd_cli.data.celeba.files import ATTRIBUTE_FILE, PARTITION_FILE, SOURCE, Files
from rotograd_cli.errors import DatasetError

SPLITS: tuple[Split, ...] = ("train", "val", "test")
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
