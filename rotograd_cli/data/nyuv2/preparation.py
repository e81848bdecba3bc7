"""Packing MTAN's layout into rows, finding the rows again, and saying what is missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rotograd_cli.data.base import Preparation
from rotograd_cli.data.nyuv2 import official
from rotograd_cli.data.nyuv2.building import build_layout
from rotograd_cli.data.nyuv2.layout import (
    FOLDERS,
    NUM_FRAMES,
    Layout,
    Part,
    chosen_frames,
    file_name,
    find_layout,
)
from rotograd_cli.data.nyuv2.published_normals import find_normals
from rotograd_cli.data.nyuv2.storage import FIELDS, encode
from rotograd_cli.data.prepared import PreparedArrays
from rotograd_cli.data.row_files import Field
from rotograd_cli.data.wording import data_command, hydra_value, listed
from rotograd_cli.errors import DatasetError

NAME = "nyuv2"
MTAN_PAGE = "https://github.com/lorenmt/mtan"


@dataclass(frozen=True)
class Rows:
    """Prepared rows of the frames that are used."""

    arrays: PreparedArrays
    chosen: Mapping[Part, int]
    """Frames of each folder that are used, the first ones."""

    @property
    def train(self) -> np.ndarray:
        """Rows of the training frames in order; -1 for frames that have none."""
        return self._of("train")

    @property
    def test(self) -> np.ndarray:
        """Rows of the test frames, likewise."""
        return self._of("val")

    @property
    def all(self) -> np.ndarray:
        """All rows that are used."""
        return np.concatenate([self.train, self.test])

    @property
    def done(self) -> np.ndarray:
        """Those of them that can be read."""
        rows = self.all
        result: np.ndarray = rows[self.arrays.is_done(rows)]
        return result

    def gone(self, layout: Layout) -> list[str]:
        """Images that were prepared and are no longer there."""
        names = self.arrays.done_files()
        there = {file_name(p, k, n) for (p, k), frames in layout.frames.items() for n in frames}
        return [name for name in names if name not in there]

    def _of(self, part: Part) -> np.ndarray:
        files = [(file_name(part, "image", frame),) for frame in range(self.chosen[part])]
        return self.arrays.rows_of(files)


def prepare(data_dir: Path, limit: int | None, normals: str | None, how: Preparation) -> None:
    """Builds MTAN's layout where a source is named, and packs the layout.

    Args:
        data_dir: Data root.
        limit: Largest number of frames of each folder; None for all.
        normals: Folder of published normals, for building.
        how: Source, threads, whom to tell.

    Raises:
        DatasetError: If files are absent, damaged or of another origin.
    """
    if how.source is not None:
        folder = data_dir / NAME
        build_layout(how.source, folder, find_normals(normals, folder), limit, how)
    layout = find_layout(data_dir)
    if layout is None:
        raise DatasetError(_absent(data_dir, limit))
    _check_names(layout)
    chosen = chosen_frames(layout.num_frames, limit, layout.root)
    _check_complete(layout, chosen, _resume_command(data_dir, limit, normals))
    frames: dict[tuple[str, ...], tuple[Part, int]] = {
        layout.files(part, frame): (part, frame)
        for part, num in chosen.items()
        for frame in range(num)
    }
    fields: dict[str, Field] = {kind: FIELDS[kind] for kind in layout.kinds}
    root = prepared_root(data_dir)
    rows = Rows(PreparedArrays.create(root, _settings(layout), fields, list(frames)), chosen)
    outdated = _forget_outdated(rows, layout, how)

    def make(files: tuple[str, ...], read: Callable[[str], bytes]) -> Mapping[str, np.ndarray]:
        return encode(layout.read(*frames[files], read))

    rows.arrays.fill(
        rows.all,
        make,
        source=layout.root,
        workers=how.workers,
        progress=lambda done, total: how.progress("packing frames", done, total),
    )
    how.say(
        f"NYUv2 is prepared in {rows.arrays.folder}: {'; '.join([_frames(chosen), *outdated])}."
    )


def open_rows(data_dir: Path, limit: int | None, normals: str | None) -> Rows:
    """The prepared rows of the layout below the data root.

    Where the layout is gone (it may be deleted once it is packed), the only prepared set.

    Args:
        data_dir: Data root.
        limit: Largest number of frames of each folder; None for all.
        normals: Folder of published normals, for the command that goes on with building.

    Returns:
        The rows, all done.

    Raises:
        DatasetError: If they are absent, incomplete, or made from other files than are there.
    """
    layout = find_layout(data_dir)
    arrays = find_prepared(data_dir, layout, limit)
    rows = Rows(arrays, used_frames(arrays, layout, limit))
    if layout is not None:
        _check_complete(layout, rows.chosen, _resume_command(data_dir, limit, normals))
    if len(rows.done) < len(rows.all):
        raise DatasetError(_unprepared(data_dir, limit))
    if layout is None:
        return rows
    changed = rows.arrays.compare(rows.all, layout.root).changed
    gone = rows.gone(layout)
    for what, names in (("changed", changed), ("disappeared", gone)):
        if names:
            raise DatasetError(
                f"{_count(names)} in {layout.root} {what} after they were prepared; run: "
                f"{command(data_dir, limit)}"
            )
    return rows


def used_frames(
    arrays: PreparedArrays, layout: Layout | None, limit: int | None
) -> dict[Part, int]:
    """How many frames of each folder are used: of the layout, or of what is prepared.

    Raises:
        DatasetError: If frames are missing.
    """
    if layout is not None:
        return chosen_frames(layout.num_frames, limit, layout.root)
    done = set(arrays.done_files())
    num: dict[Part, int] = {}
    for part in NUM_FRAMES:
        count = 0
        while file_name(part, "image", count) in done:
            count += 1
        num[part] = count
    return chosen_frames(num, limit, arrays.folder)


def find_prepared(data_dir: Path, layout: Layout | None, limit: int | None) -> PreparedArrays:
    """Prepared arrays of a layout; without one, of the only prepared set.

    Args:
        data_dir: Data root.
        layout: The layout; None where there is none.
        limit: Largest number of frames of each folder, for the command that prepares them.

    Returns:
        The arrays.

    Raises:
        DatasetError: If there are none.
    """
    root = prepared_root(data_dir)
    if layout is not None:
        folders = [PreparedArrays.locate(root, _settings(layout))]
    else:
        every = sorted(path for path in root.glob("[!.]*") if path.is_dir())
        # earlier versions kept no sources: their sets are named only where there is no other
        folders = [path for path in every if (path / "sources.npy").is_file()] or every
    if len(folders) > 1:
        raise DatasetError(
            f"NYUv2 has {len(folders)} prepared sets in {root} and no files that tell which one is "
            "meant; delete all but one."
        )
    if not folders:
        raise DatasetError(_absent(data_dir, limit))
    if not folders[0].is_dir():
        raise DatasetError(_unprepared(data_dir, limit))
    return PreparedArrays(folders[0])


def prepared_root(data_dir: Path) -> Path:
    """Folder of the prepared sets."""
    return data_dir / NAME / "prepared"


def command(data_dir: Path, limit: int | None, *words: str) -> str:
    """The command that prepares the data set, with further words."""
    subset = [] if limit is None else [f"data.limit={limit}"]
    return data_command("prepare", NAME, data_dir, *subset, *words)


def _check_complete(layout: Layout, chosen: Mapping[Part, int], resume: str) -> None:
    """Refuses a layout that lacks files of the chosen frames.

    Raises:
        DatasetError: If one is absent.
    """
    absent = layout.absent(chosen)
    if absent and layout.provenance is not None:
        raise DatasetError(
            f"{layout.root} must have {_frames(chosen)}, got all but {len(absent):,} files "
            f"({listed(absent)}): building was interrupted; go on with: {resume}"
        )
    if absent:
        raise DatasetError(
            f"{layout.root} must have all files of {_frames(chosen)}, got all but {len(absent):,} "
            f"({listed(absent)}); put them there, renumber the frames, which have no gaps, or move "
            "the folders of a kind away."
        )


def _resume_command(data_dir: Path, limit: int | None, normals: str | None) -> str:
    inside = data_dir / NAME / official.FILE
    source = str(inside) if inside.is_file() else official.FILE
    folder = [] if normals is None else [f"data.normals={hydra_value(normals)}"]
    return command(data_dir, limit, *folder, "--from", source)


def _check_names(layout: Layout) -> None:
    if layout.misnamed:
        raise DatasetError(
            f"{layout.root} must have frames named 0.npy, 1.npy and so on, got "
            f"{len(layout.misnamed):,} others ({listed(layout.misnamed)}); rename them, or move "
            "them away."
        )


def _frames(chosen: Mapping[Part, int]) -> str:
    return f"{chosen['train']} training and {chosen['val']} test frames"


def _settings(layout: Layout) -> dict[str, Any]:
    provenance = layout.provenance
    return {
        "dataset": NAME,
        "format": 2,  # of storage.encode and of the rows: raise it when that changes
        "kinds": list(layout.kinds),
        "provenance": None if provenance is None else dict(provenance),
    }


def _forget_outdated(rows: Rows, layout: Layout, how: Preparation) -> list[str]:
    """Marks rows as not done that are damaged or were made from other files than are there."""
    arrays = rows.arrays
    damaged = arrays.damaged(
        rows.done, lambda looked, total: how.progress("checking frames", looked, total)
    )
    found = arrays.compare(rows.done, layout.root, thorough=True)
    arrays.remember_times(found)
    gone = rows.gone(layout)
    lost = arrays.rows_of([(name,) for name in gone])
    arrays.forget(np.concatenate([damaged, found.rows_with(found.is_changed), lost]).astype(int))
    said = [f"{len(damaged)} damaged rows were made again"] if damaged else []
    said += [f"{_count(found.changed)} had changed"] if found.changed else []
    return [*said, f"{_count(gone)} had disappeared"] if gone else said


def _count(names: Sequence[str]) -> str:
    return f"{len(names):,} {'file' if len(names) == 1 else 'files'} ({listed(names)})"


def _unprepared(data_dir: Path, limit: int | None) -> str:
    return f"NYUv2 is not prepared in {data_dir}; run: {command(data_dir, limit)}"


def _absent(data_dir: Path, limit: int | None) -> str:
    places = " or ".join(str(data_dir / name) for name in FOLDERS[:2])
    return (
        f"NYUv2 is not in {data_dir}; put MTAN's folders train and val ({MTAN_PAGE}) into {places} "
        f"and run: {command(data_dir, limit)}; or get {official.FILE} ({official.PAGE}) and run: "
        f"{command(data_dir, limit, '--from', official.FILE)}"
    )
