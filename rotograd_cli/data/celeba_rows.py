"""CelebA's prepared rows: which ones a run needs, and where they are."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rotograd_cli.data.base import Split
from rotograd_cli.data.celeba_annotations import (
    COUNTS,
    AnnotationTexts,
    parse_partition,
    read_annotations,
)
from rotograd_cli.data.celeba_files import AGAIN, SOURCE, Files, find, present, where_from
from rotograd_cli.data.prepared import PreparedArrays
from rotograd_cli.errors import DatasetError

SPLITS: tuple[Split, ...] = ("train", "val", "test")
YAML_SIZE = 64  # of conf/data/celeba.yaml: the commands that we suggest leave it out
_VERSION = 1  # of what a row holds; to be raised whenever that changes


@dataclass(frozen=True)
class Wanted:
    """The rows that some options ask for, and where they are."""

    files: Files
    texts: AnnotationTexts
    names: Sequence[str]
    """Of all images, in file order."""
    rows: Mapping[Split, np.ndarray]
    """Positions in the files of the images of every split."""
    image_size: int
    limit: int | None

    @classmethod
    def read(cls, data_dir: Path, image_size: int, limit: int | None) -> "Wanted":
        """Finds and reads the annotation files.

        The attributes are not looked at: they come with the prepared rows.

        Args:
            data_dir: Data root.
            image_size: Height and width in pixels.
            limit: Images of each split; None demands the official numbers.

        Returns:
            The rows.

        Raises:
            DatasetError: If a file is absent or wrong, or the splits have other sizes.
        """
        files = find(data_dir)
        texts = read_annotations(files)
        assert files.partition is not None
        names, splits = read_partition(files.partition, texts.partition, limit)
        rows = {split: np.flatnonzero(splits == i)[:limit] for i, split in enumerate(SPLITS)}
        return cls(files, texts, names, rows, image_size, limit)

    @property
    def all_rows(self) -> np.ndarray:
        """Rows of all splits in file order."""
        return np.sort(np.concatenate(list(self.rows.values())))

    @property
    def root(self) -> Path:
        """Where prepared folders are."""
        return self.files.folder / "prepared"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the content of a row."""
        return {
            "data": "celeba",
            "version": _VERSION,
            "image_size": self.image_size,
            "resize": "bilinear, antialiased, not cropped (PIL)",
            "annotations": self.texts.sha256,
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What tables must say of these rows."""
        used = tuple(len(rows) for rows in self.rows.values())
        return () if used == COUNTS else (f"subset: {numbers(used)} of {numbers(COUNTS)} images",)

    @property
    def command(self) -> str:
        """Prepares these rows."""
        size = "" if self.image_size == YAML_SIZE else f" data.image_size={self.image_size}"
        limit = "" if self.limit is None else f" data.limit={self.limit}"
        return f"rotograd data prepare celeba{size}{limit}"

    def existing(self) -> PreparedArrays | None:
        """The prepared arrays, none of whose rows need be done."""
        folder = PreparedArrays.locate(self.root, self.settings)
        return PreparedArrays(folder) if folder.is_dir() else None

    def missing(self, arrays: PreparedArrays | None) -> np.ndarray:
        """Rows that are not done."""
        return self.all_rows if arrays is None else arrays.missing(self.all_rows)

    def open(self) -> PreparedArrays:
        """The prepared arrays, all rows of all splits done.

        Raises:
            DatasetError: If they are not.
        """
        arrays = self.existing()
        missing = len(self.missing(arrays))
        if arrays is not None and missing == 0:
            return arrays
        total = len(self.all_rows)
        files = "" if self.files.images is not None else f"{where_from(self.files)}, then "
        raise DatasetError(
            f"CelebA at {self.image_size}x{self.image_size} is not prepared in {self.root} "
            f"({total - missing:,} of {total:,} images are done); {files}run: {self.command}"
        )

    def images_of(self, rows: np.ndarray) -> Path:
        """Folder of the images, those of the given rows found to be there.

        Raises:
            DatasetError: If one is absent.
        """
        folder = present("img_align_celeba", self.files.images, self.files)
        absent = self.absent_images(rows)
        if absent:
            raise DatasetError(
                f"{folder} must hold {len(rows):,} images that are to be prepared, got all but "
                f"{len(absent):,}, the first being {absent[0]}; {AGAIN}."
            )
        return folder

    def absent_images(self, rows: np.ndarray) -> list[str]:
        """Names of those images of the given rows that are not there."""
        there = set() if self.files.images is None else set(os.listdir(self.files.images))
        return [name for name in (self.names[row] for row in rows) if name not in there]


def read_partition(
    path: Path, content: bytes, limit: int | None
) -> tuple[Sequence[str], np.ndarray]:
    """Image names and splits, the sizes of the splits checked.

    Args:
        path: Partition file, for messages.
        content: Its text.
        limit: Images of each split; None demands the official numbers.

    Returns:
        Names in file order, and 0 (train), 1 (val) or 2 (test), uint8, shape ``[N]``.

    Raises:
        DatasetError: If the content is not that of a partition file, or the splits have other
            sizes.
    """
    names, splits = parse_partition(path, content)
    counts = tuple(np.bincount(splits, minlength=3).tolist())
    if limit is None and counts != COUNTS:
        raise DatasetError(
            f"{path} must have {numbers(COUNTS)} images for training, validation and test, got "
            f"{numbers(counts)}; download it again from {SOURCE}, or set data.limit=N to train on "
            "the first N of each."
        )
    if 0 in counts:
        raise DatasetError(
            f"{path} must have images for training, validation and test, got {numbers(counts)}; "
            f"download it again from {SOURCE}."
        )
    return names, splits


def numbers(counts: Sequence[int]) -> str:
    """Numbers of the three splits, as in 162,770 / 19,867 / 19,962."""
    return " / ".join(f"{count:,}" for count in counts)
