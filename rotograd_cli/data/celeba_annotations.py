"""CelebA's annotations: attributes and partition, checked line by line."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rotograd_cli.data.celeba_files import (
    ATTRIBUTE_FILE,
    PARTITION_FILE,
    SOURCE,
    Files,
    present,
)
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
_VALUES = {"-1": 0, "1": 1}
_SPLITS = {"0": 0, "1": 1, "2": 2}


@dataclass(frozen=True)
class AnnotationTexts:
    """Both annotation files, free of line endings and blanks at the ends of lines."""

    attributes: bytes
    partition: bytes

    @property
    def sha256(self) -> str:
        """Hash of both, whatever their line endings were."""
        parts = (hashlib.sha256(text).digest() for text in (self.attributes, self.partition))
        return hashlib.sha256(b"".join(parts)).hexdigest()


def read_annotations(files: Files) -> AnnotationTexts:
    """Reads both annotation files.

    Args:
        files: Where the files lie.

    Returns:
        Their texts.

    Raises:
        DatasetError: If one is absent or no annotation file at all.
    """
    return AnnotationTexts(
        read_text(present(ATTRIBUTE_FILE, files.attributes, files)),
        read_text(present(PARTITION_FILE, files.partition, files)),
    )


def read_text(path: Path) -> bytes:
    """Content of an annotation file, free of line endings and blanks at the ends of lines.

    Args:
        path: The file.

    Returns:
        Its lines, joined by line feeds.

    Raises:
        DatasetError: If it cannot be read or is a saved web page.
    """
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # mark of Windows' editors
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}); make it readable, or download it again "
            f"from {SOURCE}."
        ) from error
    if content.lstrip()[:1] == b"<" or b"<html" in content[:4096].lower():
        raise _refusal(path, "an annotation file", 'a saved web page (often "quota exceeded")')
    return b"\n".join([line.rstrip() for line in content.splitlines()]).rstrip()


def parse_attributes(path: Path, content: bytes) -> tuple[list[str], np.ndarray]:
    """Image names and attributes.

    Args:
        path: The file, for messages.
        content: Its text, as :func:`read_text` returns it.

    Returns:
        Names in file order, and attributes 0 or 1, uint8, shape ``[N, 40]``.

    Raises:
        DatasetError: If the content is not that of an attribute file.
    """
    lines = _lines(content)
    if not lines[0].isdigit():
        raise _refusal(path, "a file that begins with the number of its rows", f"{lines[0]:.40}")
    if len(lines) - 2 != int(lines[0]):
        requirement = f"a file with {int(lines[0]):,} rows, as its first line says"
        raise _refusal(path, requirement, f"{max(len(lines) - 2, 0):,}")
    _check_names(path, lines[1].split())
    names: list[str] = []
    values = bytearray()
    for number, line in enumerate(lines[2:], 3):
        name, *words = line.split() or [""]
        try:
            values.extend([_VALUES[word] for word in words])
        except KeyError as error:
            raise _refusal(path, f"-1 or 1 everywhere in line {number}", str(error)) from None
        if len(words) != len(ATTRIBUTES):
            requirement = f"an image name and 40 values in line {number}"
            raise _refusal(path, requirement, f"{len(words)} values")
        names.append(name)
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise _refusal(path, "a file that names every image once", f"{twice} twice")
    return names, np.frombuffer(bytes(values), np.uint8).reshape(-1, len(ATTRIBUTES))


def parse_partition(path: Path, content: bytes) -> tuple[list[str], np.ndarray]:
    """Image names and splits.

    Args:
        path: The file, for messages.
        content: Its text, as :func:`read_text` returns it.

    Returns:
        Names in file order, and 0 (train), 1 (val) or 2 (test), uint8, shape ``[N]``.

    Raises:
        DatasetError: If the content is not that of a partition file.
    """
    names: list[str] = []
    splits = bytearray()
    for number, line in enumerate(_lines(content), 1):
        words = line.split()
        if len(words) != 2 or words[1] not in _SPLITS:
            requirement = f"an image name and 0, 1 or 2 in line {number}"
            raise _refusal(path, requirement, f"{line:.40}" or "an empty line")
        names.append(words[0])
        splits.append(_SPLITS[words[1]])
    return names, np.frombuffer(bytes(splits), np.uint8)


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
        raise _refusal(files.partition, requirement, first)


def _lines(content: bytes) -> list[str]:
    return content.decode("ascii", "backslashreplace").split("\n")


def _check_names(path: Path, found: Sequence[str]) -> None:
    if len(found) != len(ATTRIBUTES):
        raise _refusal(path, "a file with the names of 40 attributes in line 2", f"{len(found)}")
    for position, (name, official) in enumerate(zip(found, ATTRIBUTES, strict=True), 1):
        if name != official:
            requirement = f"a file with the official attributes in line 2, {official} as number"
            raise _refusal(path, f"{requirement} {position}", name)


def _refusal(path: Path, requirement: str, found: str) -> DatasetError:
    return DatasetError(
        f"{path} must be {requirement}, got {found}; delete it and download it again from {SOURCE}."
    )
