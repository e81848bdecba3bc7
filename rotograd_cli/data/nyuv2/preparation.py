"""What ``rotograd data prepare nyuv2`` and ``rotograd data check nyuv2`` do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rotograd_cli.data.base import FileCheck, Preparation
from rotograd_cli.data.nyuv2 import official
from rotograd_cli.data.nyuv2.building import build_layout
from rotograd_cli.data.nyuv2.layout import NUM_FRAMES, SHAPES, Layout, Part, find_layout
from rotograd_cli.data.nyuv2.published_normals import find_normals
from rotograd_cli.data.nyuv2.rows import MTAN_PAGE, NAME, describe_absence, find_rows
from rotograd_cli.data.nyuv2.storage import encode
from rotograd_cli.data.wording import readable
from rotograd_cli.errors import DatasetError, listed


def prepare(data_dir: Path, limit: int | None, normals: str | None, how: Preparation) -> None:
    """Build MTAN's layout where a source is named, and pack the layout.

    Args:
        data_dir: Data root.
        limit: Largest number of frames of each folder; None requires the official numbers.
        normals: Folder of published normals, for building.
        how: Source, threads, where to report.

    Raises:
        DatasetError: If files are absent, damaged or of another origin.
    """
    if how.source is not None:
        folder = data_dir / NAME
        build_layout(how.source, folder, find_normals(normals, folder), limit, how)
    layout = find_layout(data_dir)
    if layout is None:
        raise DatasetError(describe_absence(data_dir, limit))
    if layout.misnamed:
        raise DatasetError(
            f"{layout.root} must have frames named 0.npy, 1.npy and so on, got "
            f"{len(layout.misnamed):,} others ({listed(layout.misnamed)}); rename them, or move "
            "them away."
        )
    rows, _ = find_rows(data_dir, layout, limit, normals)

    def make(files: tuple[str, ...], read: Callable[[str], bytes]) -> Mapping[str, np.ndarray]:
        return encode(layout.read(files, read))

    rows.prepare(make, how)


def check(data_dir: Path, limit: int | None, normals: str | None) -> Sequence[FileCheck]:
    """Look at the layout, the official file and the prepared rows.

    Args:
        data_dir: Data root.
        limit: Largest number of frames of each folder; None requires the official numbers.
        normals: Folder of published normals, for the command that goes on with building.
    """
    try:
        layout = find_layout(data_dir)
    except DatasetError as error:
        return [FileCheck.refused("MTAN layout", error)]
    prepared = FileCheck.of(
        "prepared rows", lambda: find_rows(data_dir, layout, limit, normals)[0].look()
    )
    if layout is None:
        found = f"no train/image in {data_dir} nor in its folder {NAME}"
        get = "" if prepared.ok else f"get MTAN's preprocessed NYUv2: the link is on {MTAN_PAGE}"
        parts = [FileCheck("MTAN layout", prepared.ok, found, get)]
    else:
        parts = [_check_part(layout, part, limit) for part in NUM_FRAMES]
    return [*parts, *_check_official(data_dir / NAME), prepared]


def _check_part(layout: Layout, part: Part, limit: int | None) -> FileCheck:
    counts = {kind: len(layout.frames[part, kind]) for kind in SHAPES}
    found = ", ".join(f"{num or 'no'} {kind}" for kind, num in counts.items())
    found += f" in {layout.root}"
    num = layout.num_frames[part]
    needed = NUM_FRAMES[part] if limit is None else min(limit, num)
    absent = layout.absent({part: needed})
    misnamed = [name for name in layout.misnamed if name.startswith(f"{part}/")]
    remedy = ""
    if limit is None and num > needed:
        remedy = f"{needed} of each are wanted: move the others away, or set data.limit"
    if absent:
        found += f"; absent: {listed(absent, 8)}"
        subset = ", or set data.limit" if limit is None else ""
        remedy = f"{needed} of each are wanted, without a gap: add {listed(absent)}{subset}"
    if misnamed:
        found += f"; not the name of a frame: {listed(misnamed)}"
        remedy = "rename these files as 0.npy, 1.npy and so on, or move them away"
    return FileCheck(f"MTAN layout, {part}", not remedy, found, remedy)


def _check_official(folder: Path) -> list[FileCheck]:
    if not (folder / official.FILE).is_file():
        return []
    size = (folder / official.FILE).stat().st_size
    result = [FileCheck(official.FILE, True, readable(size))]
    for name, (what, where) in official.AUXILIARY.items():
        ok = (folder / name).is_file()
        found = what if ok else f"absent ({what}); needed to build from {official.FILE}"
        result.append(FileCheck(name, ok, found, "" if ok else f"get it from {where}"))
    return result
