"""CIFAR10 as ten binary tasks, one for each class (Krizhevsky, 2009)."""

import hashlib
import io
import logging
import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Gt, Lt
from torch import Tensor

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.data.base import (
    SPLITS,
    Batch,
    FileCheck,
    MultiTaskDataset,
    Positive,
    Seed,
    Split,
    hash_tensors,
)
from rotograd_cli.errors import DATA_ROOT, ConfigError, DatasetError, first_line
from rotograd_cli.tasks import Task, losses, metrics, select_tasks

logger = logging.getLogger(__name__)

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
"""Names of the labels 0 to 9."""
SIZE = 32  # height and width of an image
PADDING = 4  # pixels around an image out of which augmentation cuts one of the same size
TEST_FILE = "test_batch"
# MD5 of the official files, as torchvision lists them
FILES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    TEST_FILE: "40351d587109b95175f43aff81a1287e",
}
COUNTS = (50_000, 10_000)  # training and test images of the official files
FOLDER = "cifar-10-batches-py"  # torchvision's name
FOLDERS = (FOLDER, f"cifar10/{FOLDER}", "cifar10", ".")  # below the data root
AGAIN = "delete it and download CIFAR10 again"

TASKS = tuple(
    Task(name, 1, losses.binary_cross_entropy, (metrics.f1(),), batchable=True) for name in CLASSES
)


class CIFAR10(MultiTaskDataset):
    """Colour images, 32×32 pixels; "is it a cat?" and nine such questions are the tasks (BCE, F1).

    The six files of torchvision are looked for below ``data_dir`` and downloaded by torchvision
    where they are absent. CIFAR10 has no validation split: the same share of every class is drawn
    from the training images.

    Args:
        data_dir: Data root.
        tasks: Names of the wanted classes; None for all ten.
        device: Where the images live.
        limit: Largest number of training and of test images, the first ones; None demands the
            official files. With a limit, files of another content are taken, and notes say so.
        val_share: Share of the training images held out for validation.
        download: Whether absent files are downloaded.
        seed: Seed of the validation split, independent of the seed of a run.
        mean: Mean of the normalisation for red, green and blue, full intensity = 1.
        std: Standard deviation of the normalisation, likewise.

    Raises:
        ConfigError: If an option is out of range, or no image is left for validation.
        DatasetError: If a file is absent, corrupt or not CIFAR10's.
    """

    name = "cifar10"
    input_shape = (3, SIZE, SIZE)
    num_draws = 3  # mirrored or not, row and column of the crop

    @checked
    def __init__(
        self,
        *,
        data_dir: Path,
        tasks: Sequence[str] | None,
        device: torch.device,
        limit: AtLeastOne | None,
        val_share: Annotated[float, Gt(0), Lt(1)],
        download: bool,
        seed: Seed,
        mean: tuple[float, float, float],
        std: tuple[Positive, Positive, Positive],
    ) -> None:
        self.tasks = select_tasks(TASKS, tasks)
        train, test = _load(Path(data_dir), limit, download)
        held_out = _held_out(train[1], val_share, seed)
        parts = {"train": _rows(train, ~held_out), "val": _rows(train, held_out), "test": test}
        self._images = {split: parts[split][0].to(device) for split in SPLITS}
        self._labels = {split: parts[split][1].to(device) for split in SPLITS}
        self._mean = 255 * torch.tensor(mean, device=device).view(3, 1, 1)
        self._std = 255 * torch.tensor(std, device=device).view(3, 1, 1)
        if limit is not None:
            self.notes = (_note([self.num_examples(split) for split in SPLITS]),)

    def num_examples(self, split: Split) -> int:
        """Return the number of images of a split."""
        return len(self._labels[split])

    def batch(self, split: Split, indices: Tensor) -> Batch:
        """Return normalised images ``[N, 3, 32, 32]`` and the chosen tasks' targets 0 or 1."""
        labels = self._labels[split]
        indices = indices.to(labels.device)
        images = self._images[split][indices].float().sub_(self._mean).div_(self._std)
        chosen = labels[indices]
        targets = {task.name: (chosen == CLASSES.index(task.name)).float() for task in self.tasks}
        return Batch(images, targets)

    def augment(self, batch: Batch, draws: Tensor) -> Batch:
        """Mirror images at random, and cut each out of a border of 4 zeros (He et al., 2016).

        The border is added to normalised images, as in that publication: it has the mean colour.
        """
        flip = draws[:, :1] < 0.5
        top, left = (draws[:, 1:] * (2 * PADDING + 1)).long().unsqueeze(2).unbind(1)
        steps = torch.arange(SIZE, device=draws.device)
        rows = top + steps
        columns = left + torch.where(flip, steps.flip(0), steps)
        padded = F.pad(batch.inputs, (PADDING,) * 4)
        examples = torch.arange(len(padded), device=draws.device).view(-1, 1, 1, 1)
        channels = torch.arange(3, device=draws.device).view(-1, 1, 1)
        images = padded[examples, channels, rows[:, None, :, None], columns[:, None, None, :]]
        return Batch(images, batch.targets)

    def images(self, inputs: Tensor) -> Tensor:
        """Return the colour images before their normalisation."""
        return (inputs * self._std + self._mean) / 255

    @property
    def fingerprint(self) -> str:
        """Hash of all images and labels."""
        return hash_tensors(
            *(self._images[split] for split in SPLITS), *(self._labels[split] for split in SPLITS)
        )

    @classmethod
    def check_files(cls, *, data_dir: Path, options: Mapping[str, Any]) -> Sequence[FileCheck]:
        """Look at the six files and verify their checksums."""
        paths = _find(data_dir)
        if paths is None:
            remedy = _absent(data_dir, "training downloads it unless data.download=false")
            return [FileCheck("CIFAR10", False, "not all six files in one folder", remedy)]
        look = partial(_look, limit=options["limit"])
        return [FileCheck.of(name, partial(look, path)) for name, path in paths.items()]


Examples = tuple[Tensor, Tensor]
"""Images, uint8, shape ``[N, 3, 32, 32]``, and labels, int64, shape ``[N]``."""


def _rows(examples: Examples, chosen: Tensor) -> Examples:
    images, labels = examples
    return images[chosen], labels[chosen]


def _held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """Mark the validation images: the given share of every class, drawn at random."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    result = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(CLASSES)):
        members = order[labels[order] == label]
        result[members[: round(share * len(members))]] = True
    if not result.any() or result.all():
        raise ConfigError(
            f"`data.val_share` must leave images for training and for validation, got {share} of "
            f"{len(labels)} images; raise data.limit."
        )
    return result


def _note(counts: Sequence[int]) -> str:
    train, val, test = counts
    return (
        f"subset: {train + val:,} of {COUNTS[0]:,} training images ({val:,} of them for "
        f"validation) and {test:,} of {COUNTS[1]:,} test images"
    )


def _load(data_dir: Path, limit: int | None, download: bool) -> tuple[Examples, Examples]:
    """Return the training and the test images, the first ones where there is a limit."""
    paths = _find(data_dir)
    if paths is None and download:
        _download(data_dir)
        paths = _find(data_dir)
    if paths is None:
        raise DatasetError(_absent(data_dir, "download is off (data.download=false)"))
    batches = {name: _read(path, limit) for name, path in paths.items()}
    images, labels = batches.pop(TEST_FILE)
    train_images = torch.cat([images for images, _ in batches.values()])
    train_labels = torch.cat([labels for _, labels in batches.values()])
    return (train_images[:limit], train_labels[:limit]), (images[:limit], labels[:limit])


def _find(data_dir: Path) -> dict[str, Path] | None:
    """Return the six files in the first folder that has them all; None where none does."""
    candidates = [_find_in(data_dir / folder) for folder in FOLDERS]
    return next((paths for paths in candidates if len(paths) == len(FILES)), None)


def _find_in(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in FILES if (folder / name).is_file()}


def _download(data_dir: Path) -> None:
    from torchvision import datasets

    logger.info("Downloading CIFAR10 to %s", data_dir)
    try:
        datasets.CIFAR10(str(data_dir), download=True)
    except (RuntimeError, OSError) as error:
        reason = f"the download failed ({first_line(error)})"
        raise DatasetError(_absent(data_dir, reason)) from error


def _absent(data_dir: Path, why: str) -> str:
    folder = max((data_dir / name for name in FOLDERS), key=lambda path: len(_find_in(path)))
    existing = _find_in(folder)
    names = ", ".join(name for name in FILES if name not in existing)
    return (
        f"{folder} has {len(existing)} of CIFAR10's 6 files and {why}; put {names} there (from "
        f"cifar-10-python.tar.gz), or set {DATA_ROOT} to their folder."
    )


def _look(path: Path, limit: int | None) -> str:
    labels = _read(path, limit)[1]
    is_official = _md5(path.read_bytes()) == FILES[path.name]
    return f"{path}, {len(labels):,} images, {'MD5 verified' if is_official else 'not official'}"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _read(path: Path, limit: int | None) -> Examples:
    """Read a file, whose checksum is verified unless there is a limit."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({first_line(error)}); {AGAIN}.") from error
    actual = _md5(content)
    if limit is None and actual != FILES[path.name]:
        raise DatasetError(
            f"{path} must have the MD5 {FILES[path.name]}, got {actual} from {len(content)} bytes, "
            f"so it is truncated or not CIFAR10's; {AGAIN}, or set data.limit=N for a subset."
        )
    try:
        return _decode(content)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        raise DatasetError(
            f"{path} must be a pickled batch of CIFAR10, `data` [N, 3072] of uint8 and `labels` of "
            f"0 to 9, got something else ({first_line(error)}); {AGAIN}."
        ) from error


def _decode(content: bytes) -> Examples:
    """Read a pickled batch; whatever does not fit raises."""
    batch = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    pixels = batch["data"]
    labels = torch.tensor(batch["labels"], dtype=torch.int64)
    if pixels.dtype != np.uint8:
        raise TypeError(f"data of {pixels.dtype}")
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())}")
    return torch.from_numpy(pixels.reshape(len(labels), 3, SIZE, SIZE).copy()), labels


class _ArrayUnpickler(pickle.Unpickler):
    """Makes plain values and arrays alone, so that no file can run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what arrays are made of; refuse everything else."""
        array_parts = ("_reconstruct", "ndarray", "dtype")
        if module.split(".")[0] == "numpy" and name in array_parts:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")
