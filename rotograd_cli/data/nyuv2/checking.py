"""What ``rotograd data check nyuv2`` finds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rotograd_cli.data.base import FileCheck
from rotograd_cli.data.nyuv2 import official
from rotograd_cli.data.nyuv2.layout import NUM_FRAMES, SHAPES, Layout, find_layout
from rotograd_cli.data.nyuv2.rows import (
    MTAN_PAGE,
    NAME,
    Rows,
    command,
    find_prepared,
    prepared_root,
    used_frames,
)
from rotograd_cli.data.wording import readable
from rotograd_cli.errors import DatasetError, listed


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
    files = _layout(data_dir, layout, limit, prepared.ok)
    if prepared.remedy and not all(entry.ok for entry in files):
        prepared = replace(prepared, remedy=f"fix the layout, then {prepared.remedy}")
    return [*files, *_official(data_dir), prepared]


def _layout(
    data_dir: Path, layout: Layout | None, limit: int | None, prepared: bool
) -> list[FileCheck]:
    if layout is None:
        found = f"no train/image in {data_dir} nor in its folder {NAME}"
        remedy = "" if prepared else f"get MTAN's preprocessed NYUv2: the link is on {MTAN_PAGE}"
        return [FileCheck("MTAN layout", prepared, found, remedy)]
    result = []
    for part, official_num in NUM_FRAMES.items():
        counts = {kind: len(layout.frames[part, kind]) for kind in SHAPES}
        found = ", ".join(f"{num or 'no'} {kind}" for kind, num in counts.items())
        found += f" in {layout.root}"
        num = layout.num_frames[part]
        least = official_num if limit is None else min(limit, num)
        absent = layout.absent({part: least})
        misnamed = [name for name in layout.misnamed if name.startswith(f"{part}/")]
        remedy = ""
        if limit is None and num > official_num:
            remedy = f"{official_num} of each are wanted: move the others away, or set data.limit"
        if absent:
            found += f"; absent: {listed(absent, 8)}"
            subset = ", or set data.limit" if limit is None else ""
            remedy = f"{least} of each are wanted, without a gap: add {listed(absent)}{subset}"
        if misnamed:
            found += f"; not the name of a frame: {listed(misnamed)}"
            remedy = "rename these files as 0.npy, 1.npy and so on, or move them away"
        result.append(FileCheck(f"MTAN layout, {part}", not remedy, found, remedy))
    return result


def _official(data_dir: Path) -> list[FileCheck]:
    folder = data_dir / NAME
    if not (folder / official.FILE).is_file():
        return []
    size = (folder / official.FILE).stat().st_size
    result = [FileCheck(official.FILE, True, readable(size))]
    for name, (what, where) in official.AUXILIARY.items():
        ok = (folder / name).is_file()
        found = what if ok else f"absent ({what}); needed to build from {official.FILE}"
        result.append(FileCheck(name, ok, found, "" if ok else f"get it from {where}"))
    return result


def _prepared(data_dir: Path, layout: Layout | None, limit: int | None) -> FileCheck:
    remedy = f"run: {command(data_dir, limit)}"
    what = "prepared rows"
    try:
        arrays = find_prepared(data_dir, layout, limit)
        rows = Rows(arrays, used_frames(arrays, layout, limit))
    except DatasetError as error:
        nothing = not any(prepared_root(data_dir).glob("[!.]*"))
        return FileCheck(what, False, "none" if nothing else str(error), remedy)
    faults = _faults(rows, layout)
    total, done = len(rows.all), rows.done
    found = "; ".join([f"{len(done)} of {total} in {arrays.folder}", *faults])
    ok = not faults and len(done) == total
    return FileCheck(what, ok, found, "" if ok else remedy)


def _faults(rows: Rows, layout: Layout | None) -> list[str]:
    """What is wrong with rows that are done, and files that have none."""
    damaged = rows.arrays.damaged(rows.done)
    faults = [f"{len(damaged)} damaged"] if damaged else []
    if layout is None:
        return faults
    done = set(rows.arrays.done_files())
    images = [layout.files(part, n)[0] for part, num in rows.chosen.items() for n in range(num)]
    names = {
        "changed": rows.arrays.compare(rows.done, layout.root, thorough=True).changed,
        "new": [name for name in images if name not in done] if done else [],
        "missing": rows.gone(layout),
    }
    found = (f"{len(files)} {what}: {listed(files)}" for what, files in names.items() if files)
    return [*faults, *found]
