"""What ``rotograd data prepare nyuv2`` does: packing MTAN's layout into rows."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from rotograd_cli.data.base import Preparation
from rotograd_cli.data.nyuv2.building import build_layout
from rotograd_cli.data.nyuv2.layout import find_layout
from rotograd_cli.data.nyuv2.published_normals import find_normals
from rotograd_cli.data.nyuv2.rows import NAME, describe_absence, find_rows
from rotograd_cli.data.nyuv2.storage import encode
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
