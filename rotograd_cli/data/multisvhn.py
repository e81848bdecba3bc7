"""MultiSVHN: two digits of SVHN side by side (Javaloy and Valera, ICLR 2022)."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.data.base import FileCheck, Positive, Seed, Split
from rotograd_cli.data.two_digits import Digits, TwoDigits, side_by_side
from rotograd_cli.errors import DATA_ROOT, ConfigError, DatasetError, first_line

logger = logging.getLogger(__name__)

Part = Literal["train", "test", "extra"]
"""One of the three official files, as torchvision names them."""
FOLDERS = ("svhn", "SVHN", "multisvhn", ".")
"""Where the files are looked for below the data root; downloads go to the first."""
CHUNK = 10_000
"""Images turned grey at once, which bounds the memory."""


class MultiSVHN(TwoDigits):
    """Two SVHN digits side by side, grey, 32×64: 63,257 train, 10,000 val, 26,032 test pairs.

    The paper states size, colour and tasks. All else is chosen by us: one partner per left digit,
    as for MultiMNIST; validation by the last digits of the training file, as digits of one house
    number follow each other there; grey as PIL has it (ITU-R 601); active pixels are those brighter
    than half of the full intensity, their number standardised over the training split, as for
    MultiMNIST, although in a photograph these are no strokes.

    Args:
        data_dir: Data root.
        tasks: Names of the wanted tasks; None for all five.
        device: Where the images live.
        extra: Whether the 531,131 easier digits of the file ``extra`` join the training split.
        num_val: Digits at the end of the training file that are held out for validation.
        partners: Right digits drawn for every left digit.
        download: Whether absent files are downloaded.
        seed: Seed of the partners.
        mean: Pixel mean of the normalisation.
        std: Pixel standard deviation of the normalisation.

    Raises:
        ConfigError: If an option is out of range.
        DatasetError: If a file is absent, corrupt or not SVHN's.

    References:
        Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011.
    """

    name = "multisvhn"

    @checked
    def __init__(
        self,
        *,
        data_dir: Path,
        tasks: Sequence[str] | None,
        device: torch.device,
        extra: bool,
        num_val: AtLeastOne,
        partners: AtLeastOne,
        download: bool,
        seed: Seed,
        mean: float,
        std: Positive,
    ) -> None:
        folder = _folder(Path(data_dir), _parts(extra), download)
        super().__init__(
            digits=_load(folder, extra, num_val),
            compose=side_by_side,
            tasks=tasks,
            partners=partners,
            seed=seed,
            mean=mean,
            std=std,
            device=device,
        )

    @classmethod
    def check_files(cls, *, data_dir: Path, options: Mapping[str, Any]) -> Sequence[FileCheck]:
        """Look at the files and verify their checksums."""
        parts = _parts(options["extra"])
        folder = _find(data_dir, parts)
        if folder is None:
            remedy = _absent(data_dir, parts, "training downloads it unless data.download=false")
            return [FileCheck("SVHN", False, "not all files in one folder", remedy)]
        return [FileCheck.of(_file(part)[1], partial(_look, folder, part)) for part in parts]


def _parts(extra: bool) -> tuple[Part, ...]:
    return ("train", "test", "extra") if extra else ("train", "test")


def _file(part: Part) -> tuple[str, str, str]:
    """Return URL, name and MD5 of a file, from torchvision's list."""
    from torchvision.datasets import SVHN

    url, name, md5 = SVHN.split_list[part]
    return url, name, md5


def _folder(data_dir: Path, parts: Sequence[Part], download: bool) -> Path:
    """Return the folder that holds the files, downloaded if need be."""
    folder = _find(data_dir, parts)
    if folder is None and download:
        _download(data_dir, parts)
        folder = _find(data_dir, parts)
    if folder is None:
        raise DatasetError(_absent(data_dir, parts, "download is off (data.download=false)"))
    return folder


def _find(data_dir: Path, parts: Sequence[Part]) -> Path | None:
    folders = [data_dir / name for name in FOLDERS]
    return next((folder for folder in folders if not _missing(folder, parts)), None)


def _missing(folder: Path, parts: Sequence[Part]) -> list[str]:
    names = [_file(part)[1] for part in parts]
    return [name for name in names if not (folder / name).is_file()]


def _download(data_dir: Path, parts: Sequence[Part]) -> None:
    from torchvision.datasets.utils import download_url

    folder = data_dir / FOLDERS[0]
    logger.info("Downloading SVHN to %s", folder)
    try:
        for part in parts:
            url, name, md5 = _file(part)
            download_url(url, str(folder), name, md5)
    except (RuntimeError, OSError) as error:
        with suppress(OSError):  # a file has arrived
            folder.rmdir()
        why = f"the download failed ({first_line(error)})"
        raise DatasetError(_absent(data_dir, parts, why)) from error


def _absent(data_dir: Path, parts: Sequence[Part], why: str) -> str:
    folders = [data_dir / name for name in FOLDERS]
    folder = min(folders, key=lambda folder: len(_missing(folder, parts)))
    names = ", ".join(_missing(folder, parts))
    return (
        f"{folder} lacks {names} of SVHN and {why}; put {names} there, or set {DATA_ROOT} to the "
        "folder that has them."
    )


def _look(folder: Path, part: Part) -> str:
    return f"{_verified(folder, part)}, MD5 verified"


def _verified(folder: Path, part: Part) -> Path:
    """Return the path of a file, whose checksum is right."""
    _, name, md5 = _file(part)
    path = folder / name
    try:
        with path.open("rb") as file:
            start = file.read(16)
            file.seek(0)
            actual = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False))
            size = file.tell()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error}); delete it and download SVHN again."
        ) from error
    if actual.hexdigest() != md5:
        raise DatasetError(
            f"{path} must have the MD5 {md5}, got {actual.hexdigest()} from {size} bytes, so it is "
            f"{_guess(start)}; delete it and download SVHN again."
        )
    return path


def _guess(start: bytes) -> str:
    """Return what a file that is not SVHN's may be, by its first bytes."""
    if start.lstrip().startswith(b"<"):
        return "a web page that was saved in its place"
    if start.startswith(b"MATLAB 7.3"):
        return "MATLAB v7.3, while the official files are v5"
    return "truncated or not SVHN's"


def _load(folder: Path, extra: bool, num_val: int) -> dict[Split, Digits]:
    official = _read(folder, "train")
    num_train = len(official.labels) - num_val
    if num_train < 1:
        raise ConfigError(
            f"`num_val` must be less than the {len(official.labels)} digits of the training file, "
            f"got {num_val}."
        )
    train = Digits(official.images[:num_train], official.labels[:num_train])
    val = Digits(official.images[num_train:], official.labels[num_train:])
    if extra:
        train = _joined(train, _read(folder, "extra"))
    return {"train": train, "val": val, "test": _read(folder, "test")}


def _joined(first: Digits, second: Digits) -> Digits:
    images = torch.cat((first.images, second.images))
    return Digits(images, torch.cat((first.labels, second.labels)))


def _read(folder: Path, part: Part) -> Digits:
    """Read a file; torchvision turns the label 10 of the digit zero into 0."""
    from torchvision.datasets import SVHN

    _verified(folder, part)
    svhn = SVHN(str(folder), split=part)
    parts = np.array_split(svhn.data, -(-len(svhn.data) // CHUNK))
    images = np.concatenate([_grey(part) for part in parts])
    return Digits(torch.from_numpy(images), torch.from_numpy(svhn.labels))


def _grey(images: np.ndarray) -> np.ndarray:
    """Turn RGB ``[N, 3, H, W]`` into grey levels ``[N, H, W]`` by PIL's integers (ITU-R 601)."""
    red, green, blue = images.astype(np.uint32).transpose(1, 0, 2, 3)
    levels: np.ndarray = (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16
    return levels.astype(np.uint8)
