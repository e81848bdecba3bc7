"""NYUv2's prepared rows: ``rotograd data prepare nyuv2`` and ``rotograd data check nyuv2``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rotograd_cli.data.base import FileCheck, Preparation, readable
from rotograd_cli.data.nyuv2 import layout as mtan
from rotograd_cli.data.nyuv2 import official
from rotograd_cli.data.nyuv2.building import build_layout
from rotograd_cli.data.nyuv2.layout import NUM_FRAMES, SHAPES, Layout, Part, file_name, find_layout
from rotograd_cli.data.nyuv2.published_normals import find_normals
from rotograd_cli.data.nyuv2.storage import FIELDS, encode
from rotograd_cli.data.prepared import PreparedArrays
from rotograd_cli.data.rows import Rows, data_command
from rotograd_cli.errors import DatasetError, listed

NAME = "nyuv2"
MTAN_PAGE = "https://github.com/lorenmt/mtan"


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
        raise _absence(data_dir, limit)

    def make(files: Sequence[str], contents: Sequence[bytes]) -> Mapping[str, np.ndarray]:
        return encode(layout.read(files, contents))

    rows, _ = find_rows(data_dir, limit)
    rows.prepare(make, how)


def find_rows(data_dir: Path, limit: int | None) -> tuple[Rows, dict[Part, int]]:
    """Return the rows of the frames that are used, and how many frames of each folder these are.

    Without a layout (it may be deleted once it is prepared) the rows are those of the only prepared
    set. The training frames come first, those of each folder in order.

    Args:
        data_dir: Data root.
        limit: Largest number of frames of each folder; None requires the official numbers.

    Raises:
        DatasetError: If frames are absent, or there is neither a layout nor one prepared set.
    """
    existing = find_layout(data_dir)
    layout = existing or _layout_of(_only_prepared(data_dir, limit), data_dir / NAME)
    chosen = mtan.chosen_frames(layout.num_frames, limit, layout.root)
    _check_complete(layout, chosen)
    settings = {
        "dataset": NAME,
        "format": 2,  # of storage.encode and of the rows: raise it when that changes
        "kinds": list(layout.kinds),
        "provenance": None if layout.provenance is None else dict(layout.provenance),
    }
    rows = Rows(
        title="NYUv2",
        unit="frames",
        root=data_dir / NAME / "prepared",
        settings=settings,
        fields={kind: FIELDS[kind] for kind in layout.kinds},
        files=[layout.files(part, i) for part, num in chosen.items() for i in range(num)],
        source=layout.root,
        remedy=f"run: {command(data_dir, limit)}",
        restore="put them there",
        kept=frozenset(
            file_name(part, "image", i) for part in chosen for i in layout.frames[part, "image"]
        ),
    )
    return rows, chosen


def _layout_of(arrays: PreparedArrays, root: Path) -> Layout:
    """Return the layout, deleted by now, that prepared rows were made from."""
    done = set(arrays.done_files())
    frames = {
        part: frozenset(i for i in range(num) if file_name(part, "image", i) in done)
        for part, num in NUM_FRAMES.items()
    }
    by_kind = {(p, kind): frames[p] for p in frames for kind in SHAPES if kind in arrays.fields}
    return Layout(root, by_kind, arrays.settings["provenance"])


def _only_prepared(data_dir: Path, limit: int | None) -> PreparedArrays:
    root = data_dir / NAME / "prepared"
    every = sorted(path for path in root.glob("[!.]*") if path.is_dir())
    # earlier versions kept no sources: their sets are named only where there is no other
    folders = [path for path in every if (path / "sources.npy").is_file()] or every
    if len(folders) > 1:
        raise DatasetError(
            f"NYUv2 has {len(folders)} prepared sets in {root} and no files that tell which one is "
            "meant; delete all but one."
        )
    if not folders:
        raise _absence(data_dir, limit)
    return PreparedArrays(folders[0])


def command(data_dir: Path, limit: int | None, *arguments: str) -> str:
    """Return the command that prepares the data set."""
    subset = [] if limit is None else [f"data.limit={limit}"]
    return data_command("prepare", NAME, data_dir, *subset, *arguments)


def _check_complete(layout: Layout, chosen: Mapping[Part, int]) -> None:
    absent = layout.absent(chosen)
    if not absent:
        return
    remedy = (
        "put them there, renumber the frames (0.npy, 1.npy and so on without a gap), or move the "
        "folders of a kind away"
    )
    if layout.provenance is not None:
        remedy = "building was interrupted: repeat the command that began it, with its --from"
    raise DatasetError(
        f"{layout.root} must have all files of {chosen['train']} training and {chosen['val']} test "
        f"frames, got all but {len(absent):,} ({listed(absent)}); {remedy}."
    )


def _absence(data_dir: Path, limit: int | None) -> DatasetError:
    """Return the refusal where neither layout nor rows are there."""
    places = " or ".join(str(data_dir / name) for name in mtan.FOLDERS[:2])
    return DatasetError(
        f"NYUv2 is not in {data_dir}; put MTAN's folders train and val ({MTAN_PAGE}) into {places} "
        f"and run: {command(data_dir, limit)}, or get {official.FILE} ({official.PAGE}) and run: "
        f"{command(data_dir, limit, '--from', official.FILE)}"
    )


def check(data_dir: Path, limit: int | None) -> Sequence[FileCheck]:
    """Look at the layout, the official file and the prepared rows.

    Args:
        data_dir: Data root.
        limit: Largest number of frames of each folder; None requires the official numbers.
    """
    try:
        layout = find_layout(data_dir)
    except DatasetError as error:
        return [FileCheck.refused("MTAN layout", error)]
    prepared = FileCheck.of("prepared rows", lambda: find_rows(data_dir, limit)[0].look())
    if layout is None:
        found = f"no train/image in {data_dir} nor in its folder {NAME}"
        get = "" if prepared.ok else f"get MTAN's preprocessed NYUv2: the link is on {MTAN_PAGE}"
        parts = [FileCheck("MTAN layout", prepared.ok, found, get)]
    else:
        parts = [_check_part(layout, part, limit) for part in NUM_FRAMES]
    return [*parts, *_check_official(data_dir / NAME), prepared]


def _check_part(layout: Layout, part: Part, limit: int | None) -> FileCheck:
    num = layout.num_frames[part]
    needed = NUM_FRAMES[part] if limit is None else min(limit, num)
    counts = {kind: len(layout.frames[part, kind]) for kind in SHAPES}
    faults = {
        "absent": layout.absent({part: needed}),
        "too many": [file_name(part, "image", i) for i in range(needed, num) if limit is None],
    }
    found = ", ".join(f"{count or 'no'} {kind}" for kind, count in counts.items())
    described = [f"{fault}: {listed(names, 8)}" for fault, names in faults.items() if names]
    remedy = (
        f"{needed} of each are wanted, named 0.npy, 1.npy and so on without a gap: add, rename or "
        "move away files, or set data.limit"
    )
    return FileCheck(
        f"MTAN layout, {part}",
        not described,
        "; ".join([f"{found} in {layout.root}", *described]),
        remedy if described else "",
    )


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
