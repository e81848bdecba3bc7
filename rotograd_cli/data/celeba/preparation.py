"""CelebA's prepared rows: what ``rotograd data prepare celeba`` and ``data check celeba`` do."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rotograd_cli.data.base import FileCheck, Preparation
from rotograd_cli.data.celeba import annotations as tables
from rotograd_cli.data.celeba.annotations import ATTRIBUTES, Annotations, numbers
from rotograd_cli.data.celeba.files import (
    AGAIN,
    ATTRIBUTE_FILE,
    MD5,
    PARTITION_FILE,
    SOURCE,
    Files,
    find,
    read_image,
)
from rotograd_cli.data.prepared import Field
from rotograd_cli.data.rows import Rows
from rotograd_cli.data.wording import data_command
from rotograd_cli.errors import ConfigError, DatasetError, listed

YAML_SIZE = 64  # of conf/data/celeba.yaml: the commands that we suggest leave it out
_VERSION = 2  # of what a row holds; to be raised whenever that changes


def rows_of(
    data_dir: Path, files: Files, annotations: Annotations, image_size: int, limit: int | None
) -> Rows:
    """Rows of the images of all splits, in file order.

    Args:
        data_dir: Data root, for the command that prepares them.
        files: Where the files are.
        annotations: Their content, for the given limit.
        image_size: Height and width in pixels.
        limit: Images of each split, for the command.
    """
    positions = np.sort(np.concatenate(list(annotations.positions.values())))
    size = [] if image_size == YAML_SIZE else [f"data.image_size={image_size}"]
    subset = [] if limit is None else [f"data.limit={limit}"]
    command = f"run: {data_command('prepare', 'celeba', data_dir, *size, *subset)}"
    leave_out = "leave them out of both annotation files and set data.limit=N for a subset"
    return Rows(
        title=f"CelebA at {image_size}x{image_size}",
        unit="images",
        root=files.folder / "prepared",
        settings={
            "data": "celeba",
            "version": _VERSION,
            "image_size": image_size,
            "resize": "bilinear, antialiased, not cropped (PIL)",
        },
        fields={"image": Field((image_size, image_size, 3), "uint8")},
        files=[(annotations.names[position],) for position in positions],
        source=files.images,
        remedy=f"{files.remedy}, then {command}" if files.remedy else command,
        restore=files.remedy or f"{AGAIN}, or {leave_out}",
    )


def prepare(data_dir: Path, image_size: int, limit: int | None, how: Preparation) -> None:
    """Decode the images that are not prepared, have changed since, or whose rows are damaged.

    Args:
        data_dir: Data root.
        image_size: Height and width in pixels.
        limit: Images of each split; None requires the official numbers.
        how: Number of threads, where to report.

    Raises:
        ConfigError: If a source file is named.
        DatasetError: If a file is absent or wrong, or the disk is full.
    """
    if how.source is not None:
        raise ConfigError(
            "`--from` has no meaning for CelebA, whose files are looked for in paths.data_dir; "
            "leave it out."
        )
    files = find(data_dir)
    rows = rows_of(data_dir, files, Annotations.read(files, limit), image_size, limit)

    def make(names: tuple[str, ...], read: Callable[[str], bytes]) -> Mapping[str, np.ndarray]:
        return {"image": read_image(rows.source / names[0], image_size, read)}

    rows.prepare(make, how)


def check(data_dir: Path, image_size: int, limit: int | None) -> list[FileCheck]:
    """Look at the annotation files, the images and the prepared rows.

    Args:
        data_dir: Data root.
        image_size: Height and width in pixels.
        limit: Images of each split; None requires the official numbers and files.

    Returns:
        One entry for each of the four.
    """
    files = find(data_dir)
    names: list[str] = []  # in the attribute file

    def attributes() -> str:
        path = files.require(ATTRIBUTE_FILE)
        images, columns, _ = tables.read_attributes(path)
        names.extend(images)
        if columns == ATTRIBUTES:
            return f"{path}, {len(names):,} rows, {_official(path, limit)}"
        return f"{path}, {len(names):,} rows, {len(columns)} of {len(ATTRIBUTES)} attributes"

    def partition() -> str:
        path = files.require(PARTITION_FILE)
        counts = np.bincount(tables.read_partition(path, limit, names or None)).tolist()
        return f"{path}, {numbers(counts)} images, {_official(path, limit)}"

    checks = [FileCheck.of(ATTRIBUTE_FILE, attributes), FileCheck.of(PARTITION_FILE, partition)]
    try:
        annotations = Annotations.read(files, limit)
    except DatasetError:  # the reason stands beside the file at fault
        remedy = "fix the annotation files first."
        unseen = [FileCheck(x, False, "not looked at", remedy) for x in ("images", "prepared rows")]
        return [*checks, *unseen]
    rows = rows_of(data_dir, files, annotations, image_size, limit)
    images = FileCheck.of("images", lambda: _look_at_images(rows, annotations.names, image_size))
    return [*checks, images, FileCheck.of("prepared rows", rows.look)]


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


def _look_at_images(rows: Rows, names: Sequence[str], image_size: int) -> str:
    existing = {path.name for path in rows.source.glob("*.jpg")}
    unnamed = sorted(existing.difference(names))
    also = f"; {len(unnamed):,} that no annotation names: {listed(unnamed)}" if unnamed else ""
    absent = [name for (name,) in rows.files if name not in existing]
    total = len(rows.files)
    unprepared = rows.unprepared()
    if not unprepared:
        without = f" (missing: {listed(absent)})" if absent else ""
        num = total - len(absent)
        return f"{num:,} of {total:,}{without}; all are prepared, so that none is needed{also}"
    rows.check_sources(unprepared)
    paths = [rows.source / name for (name,) in unprepared]
    with ThreadPoolExecutor() as pool:
        faults = list(filter(None, pool.map(lambda path: _fault(path, image_size), paths)))
    if faults:
        raise DatasetError(
            f"{len(faults):,} of {len(paths):,} images cannot be prepared: {listed(faults)}; "
            f"{AGAIN}."
        )
    return f"{rows.source}, {total:,} images, decoded where they are not prepared{also}"


def _fault(path: Path, size: int) -> str:
    """Return why an image cannot be prepared; empty if it can."""
    try:
        read_image(path, size, lambda name: path.read_bytes())
    except DatasetError as error:
        return str(error).partition("; ")[0]
    return ""
