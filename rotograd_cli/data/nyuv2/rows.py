"""NYUv2's prepared rows: which ones a run needs, where they are, and what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rotograd_cli.data.nyuv2 import official
from rotograd_cli.data.nyuv2.layout import (
    FOLDERS,
    NUM_FRAMES,
    Layout,
    Part,
    chosen_frames,
    file_name,
    find_layout,
)
from rotograd_cli.data.prepared import PreparedArrays
from rotograd_cli.data.wording import data_command
from rotograd_cli.errors import DatasetError, hydra_value, listed

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
        check_complete(layout, rows.chosen, resume_command(data_dir, limit, normals))
    if len(rows.done) < len(rows.all):
        raise DatasetError(_unprepared(data_dir, limit))
    if layout is None:
        return rows
    changed = rows.arrays.compare(rows.all, layout.root).changed
    gone = rows.gone(layout)
    for what, names in (("changed", changed), ("disappeared", gone)):
        if names:
            raise DatasetError(
                f"{describe_files(names)} in {layout.root} {what} after they were prepared; run: "
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
        folders = [PreparedArrays.locate(root, settings(layout))]
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
        raise DatasetError(describe_absence(data_dir, limit))
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


def check_complete(layout: Layout, chosen: Mapping[Part, int], resume: str) -> None:
    """Refuses a layout that lacks files of the chosen frames.

    Raises:
        DatasetError: If one is absent.
    """
    absent = layout.absent(chosen)
    if absent and layout.provenance is not None:
        raise DatasetError(
            f"{layout.root} must have {describe_frames(chosen)}, got all but {len(absent):,} files "
            f"({listed(absent)}): building was interrupted; go on with: {resume}"
        )
    if absent:
        raise DatasetError(
            f"{layout.root} must have all files of {describe_frames(chosen)}, got all but "
            f"{len(absent):,} ({listed(absent)}); put them there, renumber the frames, which have "
            "no gaps, or move the folders of a kind away."
        )


def resume_command(data_dir: Path, limit: int | None, normals: str | None) -> str:
    """The command that goes on with building, with the options that were given."""
    inside = data_dir / NAME / official.FILE
    source = str(inside) if inside.is_file() else official.FILE
    folder = [] if normals is None else [f"data.normals={hydra_value(normals)}"]
    return command(data_dir, limit, *folder, "--from", source)


def describe_frames(chosen: Mapping[Part, int]) -> str:
    """Numbers of frames in words."""
    return f"{chosen['train']} training and {chosen['val']} test frames"


def settings(layout: Layout) -> dict[str, Any]:
    """What decides the content of a row, besides its files."""
    provenance = layout.provenance
    return {
        "dataset": NAME,
        "format": 2,  # of storage.encode and of the rows: raise it when that changes
        "kinds": list(layout.kinds),
        "provenance": None if provenance is None else dict(provenance),
    }


def describe_files(names: Sequence[str]) -> str:
    """Number of files, and the first names."""
    return f"{len(names):,} {'file' if len(names) == 1 else 'files'} ({listed(names)})"


def _unprepared(data_dir: Path, limit: int | None) -> str:
    return f"NYUv2 is not prepared in {data_dir}; run: {command(data_dir, limit)}"


def describe_absence(data_dir: Path, limit: int | None) -> str:
    """What to say where neither layout nor rows are there."""
    places = " or ".join(str(data_dir / name) for name in FOLDERS[:2])
    return (
        f"NYUv2 is not in {data_dir}; put MTAN's folders train and val ({MTAN_PAGE}) into {places} "
        f"and run: {command(data_dir, limit)}; or get {official.FILE} ({official.PAGE}) and run: "
        f"{command(data_dir, limit, '--from', official.FILE)}"
    )
