"""What ``rotograd data prepare celeba`` and ``rotograd data check celeba`` do."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from rotograd_cli.data.base import FileCheck, Preparation
from rotograd_cli.data.celeba.annotations import ATTRIBUTES, check_same_images, read_attributes
from rotograd_cli.data.celeba.files import (
    AGAIN,
    ATTRIBUTE_FILE,
    MD5,
    PARTITION_FILE,
    SOURCE,
    find,
    present,
    read_image,
)
from rotograd_cli.data.celeba.rows import Wanted, numbers, read_partition
from rotograd_cli.data.prepared import PreparedArrays
from rotograd_cli.data.row_files import Field
from rotograd_cli.data.wording import readable
from rotograd_cli.errors import ConfigError, DatasetError, listed


def prepare(data_dir: Path, image_size: int, limit: int | None, how: Preparation) -> None:
    """Decodes the images that are not prepared, have changed since, or whose rows are damaged.

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
    arrays, total = wanted.existing(), len(wanted.images)
    outdated = _outdated(wanted, arrays, how)
    todo = sorted({*wanted.unprepared(arrays), *outdated})
    title = f"CelebA at {image_size}x{image_size}"
    if arrays is not None and not todo:
        how.say(f"{title} is complete: {total:,} images in {arrays.folder}")
        return
    folder = wanted.folder_of(todo)
    fields = {"image": Field((image_size, image_size, 3), "uint8")}
    needed = len(todo) * fields["image"].num_bytes
    free = shutil.disk_usage(wanted.files.folder).free
    how.say(
        f"{title}: {len(todo):,} of {total:,} images to decode; they need {readable(needed)} in "
        f"{wanted.root}, {readable(free)} are free"
    )

    def make(files: tuple[str, ...], read: Callable[[str], bytes]) -> Mapping[str, np.ndarray]:
        return {"image": read_image(folder / files[0], image_size, read)}

    writable = PreparedArrays.create(wanted.root, wanted.settings, fields, wanted.images)
    writable.forget(writable.rows_of(outdated))
    rows = writable.rows_of(wanted.images)
    progress = partial(how.progress, "decoding")
    writable.fill(rows, make, source=folder, workers=how.workers, progress=progress)
    how.say(f"{title} is prepared: {total:,} images in {writable.folder}")


def _outdated(
    wanted: Wanted, arrays: PreparedArrays | None, how: Preparation
) -> list[tuple[str, ...]]:
    """Images whose rows are damaged, or were made from another content than is there now."""
    if arrays is None:
        return []
    damaged = _damaged(wanted, arrays, partial(how.progress, "checking"))
    found = wanted.compare(arrays, thorough=True)
    if found.is_touched.any():
        with suppress(DatasetError):  # on a read-only disk they are read again the next time
            PreparedArrays(arrays.folder, writable=True).remember_times(found)
    if found.changed:
        num = len(found.changed)
        names = listed(found.changed)
        how.say(f"{num:,} of {len(found.rows):,} images changed after they were prepared: {names}")
    return [*damaged, *((name,) for name in found.changed)]


def _damaged(
    wanted: Wanted,
    arrays: PreparedArrays,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[str, ...]]:
    rows = arrays.rows_of(wanted.images)
    damaged = arrays.damaged(rows[arrays.is_done(rows)], progress)
    return [arrays.files_of(row) for row in damaged]


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
        found, columns, _ = read_attributes(path)
        names.extend(found)
        if columns == ATTRIBUTES:
            return f"{path}, {len(names):,} rows, {_official(path, limit)}"
        return f"{path}, {len(names):,} rows, {len(columns)} of {len(ATTRIBUTES)} attributes"

    def partition() -> str:
        path = present(PARTITION_FILE, files.partition, files)
        others, splits = read_partition(path, limit)
        if names:
            check_same_images(files, names, others)
        return f"{path}, {numbers(np.bincount(splits).tolist())} images, {_official(path, limit)}"

    def read() -> Wanted:
        try:
            return Wanted.read(data_dir, image_size, limit)
        except DatasetError as error:  # whose message stands beside the file at fault
            raise DatasetError("not looked at; fix the annotation files first.") from error

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
    if path.name not in MD5:
        return "Kaggle's form, which has no published checksum"
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
    unprepared = wanted.unprepared(wanted.existing())
    total = len(wanted.images)
    others = wanted.unnamed()
    also = f"; {len(others):,} that no annotation names: {listed(others)}" if others else ""
    if not unprepared:
        absent = wanted.absent(wanted.images)
        without = f" (missing: {listed(absent)})" if absent else ""
        num = total - len(absent)
        return f"{num:,} of {total:,}{without}; all are prepared, so that none is needed{also}"
    folder = wanted.folder_of(unprepared)
    bad = _undecodable(folder, [files[0] for files in unprepared], wanted.image_size)
    if bad:
        raise DatasetError(
            f"{len(bad):,} of {len(unprepared):,} images cannot be prepared ({listed(bad)}), the "
            f"first because {_fault(folder / bad[0], wanted.image_size)}; {AGAIN}."
        )
    return f"{folder}, {total:,} images, decoded where they are not prepared{also}"


def _undecodable(folder: Path, names: Sequence[str], size: int) -> list[str]:
    with ThreadPoolExecutor() as pool:
        faults = pool.map(lambda name: _fault(folder / name, size), names)
        return [name for name, fault in zip(names, faults, strict=True) if fault]


def _fault(path: Path, size: int) -> str:
    """Why an image cannot be prepared; empty if it can."""
    try:
        read_image(path, size, lambda name: path.read_bytes())
    except DatasetError as error:
        return str(error).partition("; ")[0]
    return ""


def _look_at_rows(wanted: Wanted) -> str:
    arrays, total = wanted.existing(), len(wanted.images)
    changed = [] if arrays is None else wanted.compare(arrays, thorough=True).changed
    if changed:
        raise DatasetError(
            f"{len(changed):,} of {total:,} images changed after they were prepared "
            f"({listed(changed)}); these alone are made again by: {wanted.command}"
        )
    arrays = wanted.open()
    damaged = _damaged(wanted, arrays)
    if damaged:
        raise DatasetError(
            f"{len(damaged):,} of {total:,} rows in {arrays.folder} are damaged, the first being "
            f"that of {damaged[0][0]}; these alone are made again by: {wanted.command}"
        )
    return f"{arrays.folder}, {total:,} rows, checksums verified"
