"""From the official file to MTAN's layout.

The frames are resized whole from 640×480 to 384×288: images by PIL's bilinear filter (which
averages where it shrinks), depth, labels and normals by the pixel under the new pixel's centre.
MTAN's authors cut the invalid borders off first (by how much is lost with their code), so the two
sets differ.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from rotograd_cli.data.base import Preparation
from rotograd_cli.data.nyuv2 import layout, official
from rotograd_cli.data.nyuv2.layout import HEIGHT, PROVENANCE, SHAPES, WIDTH, Kind, Part, file_name
from rotograd_cli.data.nyuv2.official import OfficialFile, OfficialFrame, open_official
from rotograd_cli.data.nyuv2.published_normals import NormalsFolder
from rotograd_cli.data.nyuv2.surface_normals import KINECT, WINDOW, estimate_normals
from rotograd_cli.errors import DATA_ROOT, DatasetError
from rotograd_cli.files import replace_file

ESTIMATED = f"estimated from depth (planes fitted to {WINDOW}x{WINDOW} pixels at 640x480)"
# the pixel under the centre of each new pixel
_ROWS = (2 * np.arange(HEIGHT) + 1) * official.HEIGHT // (2 * HEIGHT)
_COLUMNS = (2 * np.arange(WIDTH) + 1) * official.WIDTH // (2 * WIDTH)


def build_layout(
    source: Path, root: Path, normals: NormalsFolder | None, limit: int | None, how: Preparation
) -> None:
    """Write what is missing of MTAN's layout; what is there was written whole and is kept.

    Args:
        source: The official file.
        root: Folder for ``train``, ``val`` and ``provenance.json``.
        normals: Published normals; None estimates them from the depth.
        limit: Largest number of frames of each folder; None requires the official numbers.
        how: Threads, where to report.

    Raises:
        DatasetError: If a file is absent or not what it should be, or ``root`` holds a layout that
            was made otherwise.
    """
    with open_official(source, root) as file:
        provenance = _provenance(file, normals)
        chosen = layout.chosen_frames(provenance["num_frames"], limit, source)
        _claim(root, provenance)

        def make(place: tuple[Part, int]) -> None:
            part, frame = place
            frame_id = int(file.ids[part][frame])
            content = file.read(frame_id)
            published = None if normals is None else normals.read(frame_id)
            for kind, array in resized(content, published).items():
                path = root / file_name(part, kind, frame)
                if not path.exists():
                    _save(path, partial(np.save, arr=array))

        how.say(f"Building frames in {root}; normals: {provenance['normals']}.")
        frames = [(part, frame) for part, num in chosen.items() for frame in range(num)]
        missing = [frame for frame in frames if not _is_complete(root, *frame)]
        num_done = len(frames) - len(missing)
        how.progress("building frames", num_done, len(frames))
        with ThreadPoolExecutor(how.workers) as pool:  # after an error, map makes no more
            for i, _ in enumerate(pool.map(make, missing), num_done + 1):
                how.progress("building frames", i, len(frames))


def resized(frame: OfficialFrame, normals: np.ndarray | None) -> dict[Kind, np.ndarray]:
    """Return the arrays of a frame as MTAN's layout has them, float32.

    Args:
        frame: The frame.
        normals: Its normals at 640×480; None estimates them from the depth.
    """
    from PIL import Image

    if normals is None:
        normals = estimate_normals(frame.depth, KINECT)
    image = Image.fromarray(frame.image).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    pixels = (_ROWS[:, None], _COLUMNS)
    return {
        "image": np.asarray(image, np.float32) / np.float32(255),
        "label": frame.label[pixels].astype(np.float32),
        "depth": frame.depth[pixels][..., None].astype(np.float32),
        "normal": normals[pixels].astype(np.float32),
    }


def _provenance(file: OfficialFile, normals: NormalsFolder | None) -> dict[str, Any]:
    hashes = {part: hashlib.sha256(ids.astype("<i8").tobytes()) for part, ids in file.ids.items()}
    return {
        "source": official.FILE,
        "checksum": file.checksum(),
        "frames": "resized whole, without MTAN's crop of the borders",
        "normals": ESTIMATED if normals is None else normals.description,
        "num_frames": {part: len(ids) for part, ids in file.ids.items()},
        "ids": {part: digest.hexdigest()[:16] for part, digest in hashes.items()},
    }


def _claim(root: Path, provenance: dict[str, Any]) -> None:
    """Write ``provenance.json`` into an empty place; refuse to mix frames of two origins."""
    existing = layout.read_provenance(root)
    if existing is None and (root / "train" / "image").is_dir():
        raise DatasetError(
            f"{root} holds frames of another origin (there is no {PROVENANCE}); prepare them "
            "without --from, or move train and val away."
        )
    if existing is None:
        _save(root / PROVENANCE, lambda file: file.write(json.dumps(provenance).encode()))
        return
    for key, value in existing.items():
        if value != provenance.get(key):
            raise DatasetError(
                f"{root} holds frames that were built otherwise ({key}: {value!s:.77}, now "
                f"{provenance.get(key)!s:.77}); delete its folders train and val and {PROVENANCE} "
                "to build them again."
            )


def _is_complete(root: Path, part: Part, frame: int) -> bool:
    return all((root / file_name(part, kind, frame)).exists() for kind in SHAPES)


def _save(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, write)
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be written ({error.strerror}); make room, or set {DATA_ROOT} to a "
            "writable folder."
        ) from error
