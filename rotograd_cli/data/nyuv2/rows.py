"""NYUv2's prepared rows: which frames are used, and where they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rotograd_cli.data.nyuv2 import layout as mtan
from rotograd_cli.data.nyuv2 import official
from rotograd_cli.data.nyuv2.layout import FOLDERS, NUM_FRAMES, Layout, Part, file_name
from rotograd_cli.data.nyuv2.storage import FIELDS
from rotograd_cli.data.prepared import PreparedArrays
from rotograd_cli.data.rows import Rows
from rotograd_cli.data.wording import data_command
from rotograd_cli.errors import DatasetError, hydra_value, listed

NAME = "nyuv2"
MTAN_PAGE = "https://github.com/lorenmt/mtan"


def find_rows(
    data_dir: Path, layout: Layout | None, limit: int | None, normals: str | None
) -> tuple[Rows, dict[Part, int]]:
    """Return the rows of the frames that are used, and how many frames of each folder these are.

    Without a layout (it may be deleted once it is prepared) the rows are those of the only prepared
    set. The training frames come first, those of each folder in order.

    Args:
        data_dir: Data root.
        layout: MTAN's layout below it; None where there is none.
        limit: Largest number of frames of each folder; None requires the official numbers.
        normals: Folder of published normals, for the command that goes on with building.

    Raises:
        DatasetError: If frames are absent, or there is neither a layout nor one prepared set.
    """
    if layout is None:
        return _rows_without_layout(data_dir, limit)
    chosen = mtan.chosen_frames(layout.num_frames, limit, layout.root)
    _check_complete(layout, chosen, _resume_command(data_dir, limit, normals))
    provenance = layout.provenance
    settings = {
        "dataset": NAME,
        "format": 2,  # of storage.encode and of the rows: raise it when that changes
        "kinds": list(layout.kinds),
        "provenance": None if provenance is None else dict(provenance),
    }
    rows = _make_rows(
        data_dir,
        limit,
        settings=settings,
        fields={kind: FIELDS[kind] for kind in layout.kinds},
        files=[layout.files(part, i) for part, num in chosen.items() for i in range(num)],
        source=layout.root,
        kept=frozenset(
            file_name(part, "image", i) for part in chosen for i in layout.frames[part, "image"]
        ),
    )
    return rows, chosen


def _rows_without_layout(data_dir: Path, limit: int | None) -> tuple[Rows, dict[Part, int]]:
    arrays = _only_prepared(data_dir, limit)
    done = set(arrays.done_files())
    num_done = dict.fromkeys(NUM_FRAMES, 0)
    for part in num_done:
        while file_name(part, "image", num_done[part]) in done:
            num_done[part] += 1
    chosen = mtan.chosen_frames(num_done, limit, arrays.folder)
    rows = _make_rows(
        data_dir,
        limit,
        settings=arrays.settings,
        fields=arrays.fields,
        files=[(file_name(part, "image", i),) for part, num in chosen.items() for i in range(num)],
        source=data_dir / NAME,
        kept=None,
    )
    return rows, chosen


def _make_rows(data_dir: Path, limit: int | None, **parts: Any) -> Rows:
    return Rows(
        title="NYUv2",
        unit="frames",
        root=_root(data_dir),
        remedy=f"run: {command(data_dir, limit)}",
        restore="put them there",
        **parts,
    )


def _only_prepared(data_dir: Path, limit: int | None) -> PreparedArrays:
    root = _root(data_dir)
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
    return PreparedArrays(folders[0])


def _root(data_dir: Path) -> Path:
    return data_dir / NAME / "prepared"


def command(data_dir: Path, limit: int | None, *arguments: str) -> str:
    """Return the command that prepares the data set."""
    subset = [] if limit is None else [f"data.limit={limit}"]
    return data_command("prepare", NAME, data_dir, *subset, *arguments)


def _resume_command(data_dir: Path, limit: int | None, normals: str | None) -> str:
    """Return the command that goes on with building, with the options that were given."""
    inside = data_dir / NAME / official.FILE
    source = str(inside) if inside.is_file() else official.FILE
    folder = [] if normals is None else [f"data.normals={hydra_value(normals)}"]
    return command(data_dir, limit, *folder, "--from", source)


def _check_complete(layout: Layout, chosen: Mapping[Part, int], resume: str) -> None:
    absent = layout.absent(chosen)
    if not absent:
        return
    place = (
        f"{layout.root} must have all files of {chosen['train']} training and {chosen['val']} test "
        f"frames, got all but {len(absent):,} ({listed(absent)})"
    )
    if layout.provenance is not None:
        raise DatasetError(f"{place}: building was interrupted; go on with: {resume}")
    raise DatasetError(
        f"{place}; put them there, renumber the frames, which have no gaps, or move the folders of "
        "a kind away."
    )


def describe_absence(data_dir: Path, limit: int | None) -> str:
    """Return the refusal where neither layout nor rows are there."""
    places = " or ".join(str(data_dir / name) for name in FOLDERS[:2])
    return (
        f"NYUv2 is not in {data_dir}; put MTAN's folders train and val ({MTAN_PAGE}) into {places} "
        f"and run: {command(data_dir, limit)}, or get {official.FILE} ({official.PAGE}) and run: "
        f"{command(data_dir, limit, '--from', official.FILE)}"
    )
