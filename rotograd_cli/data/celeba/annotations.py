"""CelebA's annotations: attributes and partition, as published or as Kaggle's tables."""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rotograd_cli.data.celeba.files import SOURCE, Files
from rotograd_cli.errors import DatasetError

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


def read_attributes(path: Path) -> tuple[list[str], tuple[str, ...], np.ndarray]:
    """Image names and attributes.

    Args:
        path: ``list_attr_celeba.txt`` or ``.csv``, with all attributes or some of them.

    Returns:
        Names of the images in file order; names of the A attributes in the official order; the
        attributes 0 or 1, uint8, shape ``[N, A]``.

    Raises:
        DatasetError: If the content is not that of an attribute file.
    """
    lines = _lines(path)
    if path.suffix == ".csv":
        header = _words(path, lines[0])[1:]
        first = 1
    else:
        if not lines[0].isdigit():
            raise _bad(path, "a file that begins with the number of its rows", f"{lines[0]:.40}")
        if len(lines) - 2 != int(lines[0]):
            requirement = f"a file with {int(lines[0]):,} rows, as its first line says"
            raise _bad(path, requirement, f"{max(len(lines) - 2, 0):,}")
        header = _words(path, lines[1])
        first = 2
    _check_header(path, header, first)
    names, values = _table(path, lines, first, len(header), (-1, 1))
    order = sorted(range(len(header)), key=lambda column: ATTRIBUTES.index(header[column]))
    ordered: np.ndarray = (values[:, order] == 1).astype(np.uint8)
    return names, tuple(header[column] for column in order), ordered


def read_partition(path: Path) -> tuple[list[str], np.ndarray]:
    """Image names and splits.

    Args:
        path: ``list_eval_partition.txt`` or ``.csv``.

    Returns:
        Names in file order, and 0 (train), 1 (val) or 2 (test), int8, shape ``[N]``.

    Raises:
        DatasetError: If the content is not that of a partition file.
    """
    first = 1 if path.suffix == ".csv" else 0
    names, values = _table(path, _lines(path), first, 1, (0, 1, 2))
    return names, values[:, 0]


def check_same_images(files: Files, attributes: Sequence[str], partition: Sequence[str]) -> None:
    """Refuses annotation files that do not name the same images in the same order.

    Args:
        files: The files, for messages.
        attributes: Names in the attribute file.
        partition: Names in the partition file.

    Raises:
        DatasetError: If they differ.
    """
    pairs = enumerate(zip(attributes, partition, strict=False), 1)
    first = next((f"{b} as image {i}, not {a}" for i, (a, b) in pairs if a != b), None)
    if first is None and len(attributes) != len(partition):
        first = f"{len(partition):,} images, not {len(attributes):,}"
    if first is not None:
        assert files.partition is not None
        requirement = f"a list of the images of {files.attributes} in the same order"
        raise _bad(files.partition, requirement, first)


def _lines(path: Path) -> list[str]:
    """Lines of a file, free of blanks at their ends and of empty ones at the end of the file."""
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # mark of Windows' editors
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}); make it readable, or download it again "
            f"from {SOURCE}."
        ) from error
    if content.lstrip()[:1] == b"<" or b"<html" in content[:4096].lower():
        raise _bad(path, "an annotation file", 'a saved web page (often "quota exceeded")')
    text = content.decode("ascii", "backslashreplace")
    return [line.rstrip() for line in text.rstrip().splitlines()] or [""]


def _words(path: Path, line: str) -> list[str]:
    return [word.strip() for word in line.split("," if path.suffix == ".csv" else None)]


def _table(
    path: Path, lines: Sequence[str], first: int, num_values: int, allowed: Sequence[int]
) -> tuple[list[str], np.ndarray]:
    """Names of images and whole numbers of all lines from the given one on."""
    rows = lines[first:]
    dtype = [("name", "U16"), ("values", np.int8, (num_values,))]
    delimiter = "," if path.suffix == ".csv" else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of fractions, and of no rows at all
            table = np.loadtxt(rows, dtype, delimiter=delimiter, comments=None, ndmin=1)
        names: list[str] = table["name"].tolist()
        good = len(rows) == len(names) and bool(np.isin(table["values"], allowed).all())
    except (ValueError, Warning):
        good = False
    if not good or not all(map(_IMAGE.fullmatch, names)):
        raise _fault(path, rows, first, num_values, allowed)
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise _bad(path, "a file that names every image once", f"{twice} twice")
    return names, table["values"]


def _fault(
    path: Path, rows: Sequence[str], first: int, num_values: int, allowed: Sequence[int]
) -> DatasetError:
    """What is wrong with the first line that is not as it must be."""
    choices = " or ".join([", ".join(map(str, allowed[:-1])), str(allowed[-1])])
    for number, line in enumerate(rows, first + 1):
        name, *words = _words(path, line) or [""]
        if not _IMAGE.fullmatch(name):
            found = f"{name:.40}" or "an empty line"
            return _bad(path, f"a file with an image like 000001.jpg in line {number}", found)
        if len(words) != num_values:
            requirement = f"an image name and {num_values} values of {choices} in line {number}"
            return _bad(path, f"a file with {requirement}", f"{len(words)} values")
        wrong = [word for word in words if word not in map(str, allowed)]
        if wrong:
            return _bad(path, f"a file with {choices} everywhere in line {number}", repr(wrong[0]))
    return _bad(path, "a file with a line for every image", "none")


def _check_header(path: Path, names: Sequence[str], line: int) -> None:
    unknown = [name for name in names if name not in ATTRIBUTES]
    if unknown or not names:
        requirement = f"a file with names of CelebA's attributes in line {line}"
        raise _bad(path, requirement, unknown[0] if unknown else "none")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise _bad(path, f"a file that names every attribute once in line {line}", f"{twice} twice")


def _bad(path: Path, requirement: str, found: str) -> DatasetError:
    return DatasetError(
        f"{path} must be {requirement}, got {found}; correct it, or download it again from "
        f"{SOURCE}."
    )
