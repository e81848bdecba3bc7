"""What ``rotograd data prepare nyuv2`` does: packing MTAN's layout into rows."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from rotograd_cli.data.base import Preparation
from rotograd_cli.data.nyuv2.building import build_layout
from rotograd_cli.data.nyuv2.layout import (
    Layout,
    Part,
    chosen_frames,
    find_layout,
)
from rotograd_cli.data.nyuv2.published_normals import find_normals
from rotograd_cli.data.nyuv2.rows import (
    NAME,
    Rows,
    check_complete,
    describe_absence,
    describe_files,
    describe_frames,
    prepared_root,
    resume_command,
    settings,
)
from rotograd_cli.data.nyuv2.storage import FIELDS, encode
from rotograd_cli.data.prepared import PreparedArrays
from rotograd_cli.data.row_files import Field
from rotograd_cli.errors import DatasetError, listed


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
        raise DatasetError(describe_absence(data_dir, limit))
    _check_names(layout)
    chosen = chosen_frames(layout.num_frames, limit, layout.root)
    check_complete(layout, chosen, resume_command(data_dir, limit, normals))
    frames: dict[tuple[str, ...], tuple[Part, int]] = {
        layout.files(part, frame): (part, frame)
        for part, num in chosen.items()
        for frame in range(num)
    }
    fields: dict[str, Field] = {kind: FIELDS[kind] for kind in layout.kinds}
    root = prepared_root(data_dir)
    rows = Rows(PreparedArrays.create(root, settings(layout), fields, list(frames)), chosen)
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
    said = "; ".join([describe_frames(chosen), *outdated])
    how.say(f"NYUv2 is prepared in {rows.arrays.folder}: {said}.")


def _check_names(layout: Layout) -> None:
    if layout.misnamed:
        raise DatasetError(
            f"{layout.root} must have frames named 0.npy, 1.npy and so on, got "
            f"{len(layout.misnamed):,} others ({listed(layout.misnamed)}); rename them, or move "
            "them away."
        )


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
    said += [f"{describe_files(found.changed)} had changed"] if found.changed else []
    return [*said, f"{describe_files(gone)} had disappeared"] if gone else said
