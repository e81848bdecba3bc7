"""What ``rotograd data prepare celeba`` and ``rotograd data check celeba`` do."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from rotograd_cli.data.base import FileCheck, Preparation
from rotograd_cli.data.celeba_annotations import (
    ATTRIBUTES,
    check_same_images,
    parse_attributes,
    read_text,
)
from rotograd_cli.data.celeba_files import (
    ATTRIBUTE_FILE,
    MD5,
    PARTITION_FILE,
    SOURCE,
    find,
    present,
    read_image,
)
from rotograd_cli.data.celeba_rows import Wanted, numbers, read_partition
from rotograd_cli.data.prepared import Field, PreparedArrays
from rotograd_cli.errors import ConfigError, DatasetError


def prepare(data_dir: Path, image_size: int, limit: int | None, how: Preparation) -> None:
    """Decodes the images that are not prepared, and those whose rows are damaged.

    Args:
        data_dir: Data root.
        image_size: Height and width in pixels.
        limit: Images of each split; None demands the official numbers.
        how: Number of threads, whom to tell.

    Raises:
        ConfigError: If a source file is named.
        DatasetError: If a file is absent or wrong, or the disk is full.
    """
    if how.source is not None:
        raise ConfigError(
            "`--from` has no meaning for CelebA, whose files are looked for in paths.data_dir; "
            "leave it out."
        )
    wanted = Wanted.read(data_dir, image_size, limit)
    attributes = _attributes(wanted)
    arrays, rows = wanted.existing(), wanted.all_rows
    damaged = _damaged(wanted, arrays, partial(how.progress, "checking"))
    todo = np.union1d(wanted.missing(arrays), damaged).astype(np.int64)
    title = f"CelebA at {image_size}x{image_size}"
    if arrays is not None and len(todo) == 0:
        how.say(f"{title} is complete: {len(rows):,} images in {arrays.folder}")
        return
    images = wanted.images_of(todo)

    def make(row: int) -> Mapping[str, np.ndarray]:
        image = read_image(images / wanted.names[row], image_size)
        return {"image": image, "attributes": attributes[row]}

    fields = _fields(image_size)
    needed = len(todo) * sum(field.num_bytes for field in fields.values()) / 1e9
    free = shutil.disk_usage(wanted.files.folder).free / 1e9
    how.say(
        f"{title}: {len(todo):,} of {len(rows):,} images to decode; they need {needed:.2f} GB in "
        f"{wanted.root}, {free:.2f} GB are free"
    )
    writable = PreparedArrays.create(wanted.root, wanted.settings, fields, len(wanted.names))
    writable.forget(damaged)
    writable.fill(rows, make, workers=how.workers, progress=partial(how.progress, "decoding"))
    how.say(f"{title} is prepared: {len(rows):,} images in {writable.folder}")


def _fields(image_size: int) -> dict[str, Field]:
    return {
        "image": Field((image_size, image_size, 3), "uint8"),
        "attributes": Field((len(ATTRIBUTES),), "uint8"),
    }


def _attributes(wanted: Wanted) -> np.ndarray:
    """Attributes of all images, the two annotation files found to agree."""
    path = wanted.files.attributes
    assert path is not None
    names, values = parse_attributes(path, wanted.texts.attributes)
    check_same_images(wanted.files, names, wanted.names)
    return values


def _damaged(
    wanted: Wanted,
    arrays: PreparedArrays | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[int]:
    if arrays is None:
        return []
    done = np.setdiff1d(wanted.all_rows, arrays.missing(wanted.all_rows))
    return arrays.damaged(done, progress)


def check(data_dir: Path, image_size: int, limit: int | None) -> list[FileCheck]:
    """Looks at the annotation files, the images and the prepared rows.

    Args:
        data_dir: Data root.
        image_size: Height and width in pixels.
        limit: Images of each split; None demands the official numbers and files.

    Returns:
        One entry for each of the four.
    """
    files = find(data_dir)
    names: list[str] = []  # in the attribute file

    def attributes() -> str:
        path = present(ATTRIBUTE_FILE, files.attributes, files)
        names.extend(parse_attributes(path, read_text(path))[0])
        return f"{path}, {len(names):,} rows, {_official(path, limit)}"

    def partition() -> str:
        path = present(PARTITION_FILE, files.partition, files)
        others, splits = read_partition(path, read_text(path), limit)
        if names:
            check_same_images(files, names, others)
        return f"{path}, {numbers(np.bincount(splits).tolist())} images, {_official(path, limit)}"

    def read() -> Wanted:
        try:
            return Wanted.read(data_dir, image_size, limit)
        except DatasetError as error:  # whose message stands beside the file at fault
            raise DatasetError("not looked at; mend the annotation files first.") from error

    return [
        _look(ATTRIBUTE_FILE, attributes),
        _look(PARTITION_FILE, partition),
        _look("images", lambda: _look_at_images(read())),
        _look("prepared rows", lambda: _look_at_rows(read())),
    ]


def _look(what: str, look: Callable[[], str]) -> FileCheck:
    try:
        return FileCheck(what, True, look())
    except DatasetError as error:
        found, _, remedy = str(error).rpartition("; ")  # so end all messages of these modules
        return FileCheck(what, False, found, remedy)


def _official(path: Path, limit: int | None) -> str:
    """Says whether a file is the official one, which it must be for a run on all images."""
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if md5 == MD5[path.name]:
        return "MD5 verified"
    found = f"not the official file (MD5 {md5}, not {MD5[path.name]})"
    if limit is not None:
        return found
    raise DatasetError(
        f"{path} is {found}; download it again from {SOURCE}, or set data.limit=N for a subset."
    )


def _look_at_images(wanted: Wanted) -> str:
    rows = wanted.all_rows
    if len(wanted.missing(wanted.existing())) == 0:
        num = len(rows) - len(wanted.absent_images(rows))
        return f"{num:,} of {len(rows):,}; all are prepared, so that none is needed"
    return f"{wanted.images_of(rows)}, {len(rows):,} images"


def _look_at_rows(wanted: Wanted) -> str:
    arrays = wanted.open()
    damaged = _damaged(wanted, arrays)
    if damaged:
        raise DatasetError(
            f"{len(damaged):,} of {len(wanted.all_rows):,} rows in {arrays.folder} are damaged, "
            f"the first being that of {wanted.names[damaged[0]]}; these alone are made again by: "
            f"{wanted.command}"
        )
    return f"{arrays.folder}, {len(wanted.all_rows):,} rows, checksums verified"
