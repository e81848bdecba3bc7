"""What ``rotograd data check nyuv2`` finds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rotograd_cli.data.base import FileCheck
from rotograd_cli.data.nyuv2 import official
from rotograd_cli.data.nyuv2.layout import NUM_FRAMES, SHAPES, Layout, chosen_frames, find_layout
from rotograd_cli.data.nyuv2.preparation import MTAN_PAGE, NAME, Rows, find_prepared, prepared_root
from rotograd_cli.errors import DatasetError


def check(data_dir: Path, limit: int | None) -> Sequence[FileCheck]:
    """Looks at the layout, the prepared rows and the official file.

    Args:
        data_dir: Data root.
        limit: Largest number of frames of each folder; None demands the official numbers.

    Returns:
        What was found.
    """
    try:
        layout = find_layout(data_dir)
    except DatasetError as error:
        return [FileCheck("MTAN layout", False, str(error), "see the message")]
    prepared = _prepared(data_dir, layout, limit)
    return [*_layout(data_dir, layout, limit, prepared.ok), *_official(data_dir), prepared]


def _layout(
    data_dir: Path, layout: Layout | None, limit: int | None, prepared: bool
) -> list[FileCheck]:
    if layout is None:
        found = f"no train/image in {data_dir} nor in its folder {NAME}"
        remedy = "" if prepared else f"get MTAN's preprocessed NYUv2: the link is on {MTAN_PAGE}"
        return [FileCheck("MTAN layout", prepared, found, remedy)]
    result = []
    for part, official_num in NUM_FRAMES.items():
        counts = {
            kind: sum(path.stem.isdigit() for path in (layout.root / part / kind).glob("*.npy"))
            for kind in SHAPES
        }
        least = official_num if limit is None else min(limit, layout.num_frames[part])
        ok = min(counts.values()) >= least and layout.num_files[part] >= least
        ok = ok and (limit is not None or set(counts.values()) == {official_num})
        found = ", ".join(f"{num} {kind}" for kind, num in counts.items()) + f" in {layout.root}"
        remedy = f"{least} of each are wanted: complete them, or set data.limit"
        result.append(FileCheck(f"MTAN layout, {part}", ok, found, "" if ok else remedy))
    return result


def _official(data_dir: Path) -> list[FileCheck]:
    folder = data_dir / NAME
    if not (folder / official.FILE).is_file():
        return []
    size = (folder / official.FILE).stat().st_size
    result = [FileCheck(official.FILE, True, f"{size / 1e9:.2f} GB")]
    for name, (what, where) in official.AUXILIARY.items():
        ok = (folder / name).is_file()
        found = what if ok else f"absent ({what}); needed to build from {official.FILE}"
        result.append(FileCheck(name, ok, found, "" if ok else f"get it from {where}"))
    return result


def _prepared(data_dir: Path, layout: Layout | None, limit: int | None) -> FileCheck:
    subset = "" if limit is None else f" data.limit={limit}"
    remedy = f"run: rotograd data prepare {NAME}{subset}"
    what = "prepared rows"
    try:
        arrays = find_prepared(data_dir, layout)
        chosen = chosen_frames(arrays.settings["num_frames"], limit, arrays.folder)
    except DatasetError as error:
        nothing = not any(prepared_root(data_dir).glob("[!.]*"))
        return FileCheck(what, False, "none" if nothing else str(error), remedy)
    rows = Rows(arrays, chosen)
    missing = arrays.missing(rows.all)
    damaged = arrays.damaged(np.setdiff1d(rows.all, missing))
    found = f"{len(rows.all) - len(missing)} of {len(rows.all)} in {arrays.folder}"
    if damaged:
        found += f", {len(damaged)} of them damaged"
    ok = not damaged and len(missing) == 0
    return FileCheck(what, ok, found, "" if ok else remedy)
