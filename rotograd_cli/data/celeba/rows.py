"""CelebA's prepared rows: which ones a run needs, and where they are."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rotograd_cli.data.base import Split
from rotograd_cli.data.celeba import annotations as celeba_annotations
from rotograd_cli.data.celeba.annotations import (
    ATTRIBUTES,
    COUNTS,
    check_same_images,
    read_attributes,
)
from rotograd_cli.data.celeba.files import (
    AGAIN,
    ATTRIBUTE_FILE,
    PARTITION_FILE,
    SOURCE,
    Files,
    find,
    present,
    where_from,
)
from rotograd_cli.data.prepared import PreparedArrays
from rotograd_cli.data.sources import Comparison
from rotograd_cli.data.wording import data_command
from rotograd_cli.errors import DatasetError, listed

SPLITS: tuple[Split, ...] = ("train", "val", "test")
YAML_SIZE = 64  # of conf/data/celeba.yaml: the commands that we suggest leave it out
_VERSION = 2  # of what a row holds; to be raised whenever that changes


@dataclass(frozen=True)
class Wanted:
    """The images that some options ask for, and the rows that hold them."""

    data_dir: Path
    files: Files
    names: Sequence[str]
    """Of all images, in file order."""
    positions: Mapping[Split, np.ndarray]
    """Positions in the annotation files of the images of every split."""
    columns: tuple[str, ...]
    """Attributes that the attribute file has, in the official order."""
    attributes: np.ndarray
    """Attributes of all images, 0 or 1, uint8, shape ``[N, A]``."""
    image_size: int
    limit: int | None

    @classmethod
    def read(cls, data_dir: Path, image_size: int, limit: int | None) -> "Wanted":
        """Finds and reads the annotation files.

        Args:
            data_dir: Data root.
            image_size: Height and width in pixels.
            limit: Images of each split; None demands the official numbers.

        Returns:
            The images.

        Raises:
            DatasetError: If a file is absent or wrong, or the splits have other sizes.
        """
        files = find(data_dir)
        path = present(ATTRIBUTE_FILE, files.attributes, files)
        others, splits = read_partition(present(PARTITION_FILE, files.partition, files), limit)
        names, columns, attributes = read_attributes(path)
        check_same_images(files, names, others)
        positions = {split: np.flatnonzero(splits == i)[:limit] for i, split in enumerate(SPLITS)}
        return cls(data_dir, files, names, positions, columns, attributes, image_size, limit)

    @cached_property
    def images(self) -> list[tuple[str, ...]]:
        """Files of the images of all splits in file order, as rows are named."""
        chosen = np.sort(np.concatenate(list(self.positions.values())))
        return [(self.names[position],) for position in chosen]

    @property
    def root(self) -> Path:
        """Where prepared folders are."""
        return self.files.folder / "prepared"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the content of a row, besides its image."""
        return {
            "data": "celeba",
            "version": _VERSION,
            "image_size": self.image_size,
            "resize": "bilinear, antialiased, not cropped (PIL)",
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What tables must say of these rows."""
        used = tuple(len(positions) for positions in self.positions.values())
        notes = []
        if used != COUNTS:
            notes.append(f"subset: {numbers(used)} of {numbers(COUNTS)} images")
        if self.columns != ATTRIBUTES:
            notes.append(f"subset: {len(self.columns)} of {len(ATTRIBUTES)} attributes")
        return tuple(notes)

    @property
    def command(self) -> str:
        """Prepares these rows."""
        size = [] if self.image_size == YAML_SIZE else [f"data.image_size={self.image_size}"]
        limit = [] if self.limit is None else [f"data.limit={self.limit}"]
        return data_command("prepare", "celeba", self.data_dir, *size, *limit)

    def existing(self) -> PreparedArrays | None:
        """The prepared arrays, none of whose rows need be done."""
        folder = PreparedArrays.locate(self.root, self.settings)
        return PreparedArrays(folder) if folder.is_dir() else None

    def rows(self, arrays: PreparedArrays, split: Split) -> np.ndarray:
        """Rows of a split, in order; -1 for those that are not there."""
        return arrays.rows_of([(self.names[position],) for position in self.positions[split]])

    def unprepared(self, arrays: PreparedArrays | None) -> list[tuple[str, ...]]:
        """Images whose rows are not done."""
        if arrays is None:
            return self.images
        done = arrays.is_done(arrays.rows_of(self.images))
        return [image for image, is_done in zip(self.images, done, strict=True) if not is_done]

    def open(self) -> PreparedArrays:
        """The prepared arrays, all rows of all splits done and made from the images that are there.

        Raises:
            DatasetError: If they are not.
        """
        arrays = self.existing()
        missing = [names[0] for names in self.unprepared(arrays)]
        if arrays is None or missing:
            total = len(self.images)
            done = total - len(missing)
            without = f", not {listed(missing)}" if done else ""
            files = "" if self.files.images is not None else f"{where_from(self.files)}, then "
            raise DatasetError(
                f"CelebA at {self.image_size}x{self.image_size} is not prepared in {self.root} "
                f"({done:,} of {total:,} images are done{without}); {files}run: "
                f"{self.command}"
            )
        changed = self.compare(arrays).changed
        if changed:
            raise DatasetError(
                f"{len(changed):,} of {len(self.images):,} images in {self.files.images} changed "
                f"after they were prepared ({listed(changed)}); run: {self.command}"
            )
        return arrays

    def compare(self, arrays: PreparedArrays, *, thorough: bool = False) -> Comparison:
        """Compares the images that rows were made from with those that are there.

        Images that are not there may have been deleted: their rows are enough.

        Args:
            arrays: The prepared arrays; rows that are not done are left out.
            thorough: Whether images are read even where size and time are as they were.

        Returns:
            What was found.
        """
        rows = arrays.rows_of(self.images)
        done = rows[arrays.is_done(rows)]
        folder = self.files.images or self.files.folder / "img_align_celeba"  # which is absent
        return arrays.compare(done, folder, thorough=thorough)

    def folder_of(self, images: Sequence[tuple[str, ...]]) -> Path:
        """Folder of the images, the given ones found to be there.

        Raises:
            DatasetError: If one is absent.
        """
        folder = present("img_align_celeba", self.files.images, self.files)
        absent = self.absent(images)
        if absent:
            raise DatasetError(
                f"{folder} must hold {len(images):,} images that are to be prepared, got all but "
                f"{len(absent):,} ({listed(absent)}); {AGAIN}, or leave them out of both "
                "annotation files and set data.limit=N for a subset."
            )
        return folder

    def absent(self, images: Sequence[tuple[str, ...]]) -> list[str]:
        """Names of those of the given images that are not there."""
        there = set(self._there)
        return [files[0] for files in images if files[0] not in there]

    def unnamed(self) -> list[str]:
        """Images that are there and that no annotation names."""
        names = set(self.names)
        return sorted(x for x in self._there if x.endswith(".jpg") and x not in names)

    @cached_property
    def _there(self) -> list[str]:
        return [] if self.files.images is None else os.listdir(self.files.images)


def read_partition(path: Path, limit: int | None) -> tuple[Sequence[str], np.ndarray]:
    """Image names and splits, the sizes of the splits checked.

    Args:
        path: Partition file.
        limit: Images of each split; None demands the official numbers.

    Returns:
        Names in file order, and 0 (train), 1 (val) or 2 (test), shape ``[N]``.

    Raises:
        DatasetError: If the content is not that of a partition file, or the splits have other
            sizes.
    """
    names, splits = celeba_annotations.read_partition(path)
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
    return names, splits


def numbers(counts: Sequence[int]) -> str:
    """Numbers of the three splits, as in 162,770 / 19,867 / 19,962."""
    return " / ".join(f"{count:,}" for count in counts)
