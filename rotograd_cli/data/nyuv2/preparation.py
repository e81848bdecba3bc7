"""Packing MTAN's layout into rows, finding the rows again, and saying what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rotograd_cli.data.base import Preparation
from rotograd_cli.data.nyuv2 import official
from rotograd_cli.data.nyuv2.building import build_layout
from rotograd_cli.data.nyuv2.layout import FOLDERS, Layout, Part, chosen_frames, find_layout
from rotograd_cli.data.nyuv2.published_normals import find_normals
from rotograd_cli.data.nyuv2.storage import FIELDS, encode
from rotograd_cli.data.prepared import PreparedArrays
from rotograd_cli.errors import DatasetError

NAME = "nyuv2"
MTAN_PAGE = "https://github.com/lorenmt/mtan"


@dataclass(frozen=True)
class Rows:
    """Prepared rows, and which of them are used."""

    arrays: PreparedArrays
    chosen: Mapping[Part, int]
    """Frames of each folder that are used, the first ones."""

    @property
    def train(self) -> np.ndarray:
        """Rows of the training frames; a row's number is its frame's."""
        return np.arange(self.chosen["train"])

    @property
    def test(self) -> np.ndarray:
        """Rows of the test frames, which follow all training frames."""
        return int(self.arrays.settings["num_frames"]["train"]) + np.arange(self.chosen["val"])

    @property
    def all(self) -> np.ndarray:
        """All rows that are used."""
        return np.concatenate([self.train, self.test])


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
        raise DatasetError(_absent(data_dir))
    chosen = chosen_frames(layout.num_frames, limit, layout.root)
    _check_files_are_there(layout, chosen)
    num_rows = sum(layout.num_frames.values())
    folder = prepared_root(data_dir)
    rows = Rows(PreparedArrays.create(folder, _settings(layout), FIELDS, num_rows), chosen)
    _forget_damaged(rows, how)

    def make(row: int) -> Mapping[str, np.ndarray]:
        first = layout.num_frames["train"]
        return encode(layout.read("train", row) if row < first else layout.read("val", row - first))

    rows.arrays.fill(
        rows.all,
        make,
        workers=how.workers,
        progress=lambda done, total: how.progress("packing frames", done, total),
    )
    how.say(
        f"NYUv2 is prepared in {rows.arrays.folder}: {chosen['train']} training and "
        f"{chosen['val']} test frames."
    )


def open_rows(data_dir: Path, limit: int | None) -> Rows:
    """The prepared rows of the layout below the data root.

    Where the layout is gone (it may be deleted once it is packed), the only prepared set.

    Raises:
        DatasetError: If they are absent or incomplete.
    """
    arrays = find_prepared(data_dir, find_layout(data_dir))
    chosen = chosen_frames(arrays.settings["num_frames"], limit, arrays.folder)
    rows = Rows(arrays, chosen)
    if len(rows.arrays.missing(rows.all)):
        raise DatasetError(_unprepared(data_dir, limit))
    return rows


def find_prepared(data_dir: Path, layout: Layout | None) -> PreparedArrays:
    """Prepared arrays of a layout; without one, of the only prepared set.

    Raises:
        DatasetError: If there are none.
    """
    root = prepared_root(data_dir)
    if layout is not None and layout.num_files["train"]:
        folders = [PreparedArrays.locate(root, _settings(layout))]
    else:
        folders = sorted(path for path in root.glob("[!.]*") if path.is_dir())
    if len(folders) > 1:
        raise DatasetError(
            f"NYUv2 has {len(folders)} prepared sets in {root} and no files that tell which one is "
            "meant; delete all but one."
        )
    if not folders:
        raise DatasetError(_absent(data_dir))
    if not folders[0].is_dir():
        raise DatasetError(_unprepared(data_dir, None))
    return PreparedArrays(folders[0])


def prepared_root(data_dir: Path) -> Path:
    """Folder of the prepared sets."""
    return data_dir / NAME / "prepared"


def _settings(layout: Layout) -> dict[str, Any]:
    provenance = layout.provenance
    return {
        "dataset": NAME,
        "format": 1,  # of storage.encode: raise it when that changes
        "num_frames": dict(layout.num_frames),
        "first_frame": layout.checksum(),
        "provenance": None if provenance is None else dict(provenance),
    }


def _check_files_are_there(layout: Layout, chosen: Mapping[Part, int]) -> None:
    for part, num in chosen.items():
        if layout.num_files[part] < num:
            raise DatasetError(
                f"{layout.root / part} must have {num} frames, got {layout.num_files[part]}: "
                f"building was interrupted; go on with: rotograd data prepare {NAME} "
                f"--from {official.FILE}"
            )


def _forget_damaged(rows: Rows, how: Preparation) -> None:
    done = np.setdiff1d(rows.all, rows.arrays.missing(rows.all))
    damaged = rows.arrays.damaged(
        done, lambda looked, total: how.progress("checking frames", looked, total)
    )
    if damaged:
        how.say(f"{len(damaged)} damaged rows are made again.")
        rows.arrays.forget(damaged)


def _unprepared(data_dir: Path, limit: int | None) -> str:
    subset = "" if limit is None else f" data.limit={limit}"
    return f"NYUv2 is not prepared in {data_dir}; run: rotograd data prepare {NAME}{subset}"


def _absent(data_dir: Path) -> str:
    places = ", ".join(str(data_dir / name) for name in FOLDERS[:2])
    return (
        f"NYUv2 is not in {data_dir}; put MTAN's folders train and val ({MTAN_PAGE}) into one of "
        f"{places}, or get {official.FILE} ({official.PAGE}), and run: rotograd data prepare "
        f"{NAME} [--from {official.FILE}]"
    )
