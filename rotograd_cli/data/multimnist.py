"""MultiMNIST: two-digit images from MNIST (Sener and Koltun, NeurIPS 2018)."""

import gzip
import hashlib
import logging
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.data.base import FileCheck, Positive, Seed, Split
from rotograd_cli.data.two_digits import Digits, TwoDigits, overlap
from rotograd_cli.errors import DATA_ROOT, DatasetError

logger = logging.getLogger(__name__)

# file: (MD5 of the uncompressed content, shape)
FILES: dict[str, tuple[str, tuple[int, ...]]] = {
    "train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", (60_000, 28, 28)),
    "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", (60_000,)),
    "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", (10_000, 28, 28)),
    "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", (10_000,)),
}
FOLDERS = ("MNIST/raw", "mnist", "multimnist", ".")  # below the data root: torchvision's, then flat


class MultiMNIST(TwoDigits):
    """Two MNIST digits per image: 50,000 train, 10,000 val (last of MNIST's train), 10,000 test.

    The four files are looked for below ``data_dir`` in torchvision's layout (``MNIST/raw``) and
    flat (``mnist/`` or the root), plain or ``.gz``, and downloaded by torchvision where they are
    absent. Their checksums are always verified.

    Args:
        data_dir: Data root.
        tasks: Names of the wanted tasks; None for all five.
        device: Where the images live.
        partners: Right digits drawn for every left digit; the literature draws one.
        download: Whether absent files are downloaded.
        seed: Seed of the partners.
        mean: Pixel mean of the normalisation.
        std: Pixel standard deviation of the normalisation.

    Raises:
        ConfigError: If an option is out of range.
        DatasetError: If a file is absent, corrupt or not MNIST's.
    """

    name = "multimnist"

    @checked
    def __init__(
        self,
        *,
        data_dir: Path,
        tasks: Sequence[str] | None,
        device: torch.device,
        partners: AtLeastOne,
        download: bool,
        seed: Seed,
        mean: float,
        std: Positive,
    ) -> None:
        super().__init__(
            digits=_load(Path(data_dir), download),
            compose=overlap,
            tasks=tasks,
            partners=partners,
            seed=seed,
            mean=mean,
            std=std,
            device=device,
        )

    @classmethod
    def check_files(cls, *, data_dir: Path, options: Mapping[str, Any]) -> Sequence[FileCheck]:
        """Look at the four files and verify their checksums."""
        del options
        paths = _find(data_dir)
        if paths is None:
            remedy = _absent(data_dir, "training downloads it unless data.download=false")
            return [FileCheck("MNIST", False, "not all four files in one folder", remedy)]
        return [FileCheck.of(name, partial(_look, name, path)) for name, path in paths.items()]


def _look(name: str, path: Path) -> str:
    _read(path, *FILES[name])
    return f"{path}, MD5 verified"


def _load(data_dir: Path, download: bool) -> dict[Split, Digits]:
    paths = _find(data_dir)
    if paths is None and download:
        _download(data_dir)
        paths = _find(data_dir)
    if paths is None:
        raise DatasetError(_absent(data_dir, "download is off (data.download=false)"))
    arrays = {name: _read(path, *FILES[name]) for name, path in paths.items()}
    images = arrays["train-images-idx3-ubyte"]
    labels = arrays["train-labels-idx1-ubyte"].long()
    test_labels = arrays["t10k-labels-idx1-ubyte"].long()
    return {
        "train": Digits(images[:50_000], labels[:50_000]),
        "val": Digits(images[50_000:], labels[50_000:]),
        "test": Digits(arrays["t10k-images-idx3-ubyte"], test_labels),
    }


def _find(data_dir: Path) -> dict[str, Path] | None:
    """Find the four files in the first folder that has them all, plain before ``.gz``."""
    candidates = [_find_in(data_dir / folder) for folder in FOLDERS]
    return next((paths for paths in candidates if len(paths) == len(FILES)), None)


def _find_in(folder: Path) -> dict[str, Path]:
    places = {name: (folder / name, folder / f"{name}.gz") for name in FILES}
    existing = {name: [p for p in paths if p.is_file()] for name, paths in places.items()}
    return {name: paths[0] for name, paths in existing.items() if paths}


def _download(data_dir: Path) -> None:
    from torchvision.datasets import MNIST

    logger.info("Downloading MNIST to %s", data_dir)
    try:
        MNIST(str(data_dir), download=True)
    except (RuntimeError, OSError) as error:
        for folder in (data_dir / "MNIST" / "raw", data_dir / "MNIST"):
            with suppress(OSError):  # it was there before, or something arrived
                folder.rmdir()
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "no reason given"
        raise DatasetError(_absent(data_dir, f"the download failed ({reason})")) from error


def _absent(data_dir: Path, why: str) -> str:
    folder = max((data_dir / name for name in FOLDERS), key=lambda path: len(_find_in(path)))
    existing = _find_in(folder)
    names = ", ".join(f"{name}[.gz]" for name in FILES if name not in existing)
    return (
        f"{folder} has {len(existing)} of MNIST's 4 files and {why}; put {names} there, or set "
        f"{DATA_ROOT} to their folder."
    )


def _read(path: Path, md5: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Read an idx file and verify its checksum."""
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{path} cannot be read ({error}); delete it and download MNIST again."
        ) from error
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise DatasetError(
            f"{path} must have the MD5 {md5} (uncompressed), got {actual} from {len(content)} "
            "bytes, so it is truncated or not MNIST's; delete it and download MNIST again."
        )
    header = 4 + 4 * len(shape)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).copy()).reshape(shape)
