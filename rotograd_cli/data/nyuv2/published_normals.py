"""Normals that others computed, at 640×480, in a folder.

Two forms are read. The archive ``normals_gt.tgz`` of Eigen and Fergus (ICCV 2015; normals of
Silberman et al.), once unpacked, holds ``normals/0000.png`` and ``masks/0000.png`` to 1448,
numbered from 0; a component is value/127 - 1, red is x, green y, blue z, and a pixel counts where
the mask is not 0. Anything else can be brought as ``1.npy`` to ``1449.npy``, numbered by the
official ids: float, shape ``[480, 640, 3]``, zero where there is no normal. The axes stay as they
are found; the augmentation needs x to be horizontal.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rotograd_cli.data.nyuv2.layout import load_array
from rotograd_cli.data.nyuv2.official import HEIGHT, WIDTH
from rotograd_cli.errors import DatasetError

ARCHIVE = "normals_gt"
_SHORTEST = 0.5  # of what the archive's colours decode to; grey is no direction


@dataclass(frozen=True)
class NormalsFolder:
    """A folder of normals, one file per frame."""

    path: Path
    is_archive: bool
    """Whether it is the archive's content, else ``.npy`` files."""

    @property
    def description(self) -> str:
        """What tables say about these normals."""
        return f"read from {'the archive' if self.is_archive else 'files in'} {self.path.name}"

    def read(self, frame_id: int) -> np.ndarray:
        """Read the normals of a frame by its 1-based official id.

        Returns:
            Unit vectors, float32, shape ``[480, 640, 3]``; zero where there is none.

        Raises:
            DatasetError: If a file is absent or not what it should be.
        """
        if self.is_archive:
            colours = _read_png(self.path / "normals" / f"{frame_id - 1:04d}.png", 3)
            mask = _read_png(self.path / "masks" / f"{frame_id - 1:04d}.png", 1)
            return _unit(np.where(mask > 0, colours / np.float32(127) - 1, 0), _SHORTEST)
        return _unit(_read_npy(self.path / f"{frame_id}.npy"), 0)


def find_normals(option: str | None, folder: Path) -> NormalsFolder | None:
    """Find the folder of published normals; return None if none was asked for and none is there.

    Args:
        option: Folder, relative to ``folder`` or absolute; None takes the unpacked archive where it
            is in ``folder``.
        folder: Folder of the data set.

    Raises:
        DatasetError: If the folder asked for has neither form.
    """
    path = folder / (ARCHIVE if option is None else option)
    if (path / "normals").is_dir() and (path / "masks").is_dir():
        return NormalsFolder(path, is_archive=True)
    if option is None:
        return None
    if any(path.glob("*.npy")):
        return NormalsFolder(path, is_archive=False)
    raise DatasetError(
        "`data.normals` must name a folder with normals/0000.png and masks/0000.png, or 1.npy "
        f"(480x640x3), got {path}; put the files there, or use data.normals=null."
    )


def _read_png(path: Path, channels: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            array = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    except OSError as error:
        raise _bad(path, "must be an image", error.strerror or "another content") from error
    if array.shape[:2] != (HEIGHT, WIDTH):
        raise _bad(path, f"must have {WIDTH}x{HEIGHT} pixels", f"{array.shape[1]}x{array.shape[0]}")
    return array.reshape(HEIGHT, WIDTH, channels)


def _read_npy(path: Path) -> np.ndarray:
    try:
        array = load_array(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _bad(path, "must be a NumPy array", reason) from error
    if array.shape != (HEIGHT, WIDTH, 3) or not np.issubdtype(array.dtype, np.floating):
        raise _bad(path, "must be float with shape (480, 640, 3)", f"{array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise _bad(path, "must be finite", "values that are not")
    return array


def _unit(vectors: np.ndarray, shortest: float) -> np.ndarray:
    """Scale vectors to unit length; those up to the shortest length become zero."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    valid = length > shortest
    return np.where(valid, vectors / np.where(valid, length, 1), 0).astype(np.float32)


def _bad(path: Path, requirement: str, found: str) -> DatasetError:
    return DatasetError(f"{path} {requirement}, found {found}; get the normals again.")
