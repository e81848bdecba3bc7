"""CIFAR10 as ten binary tasks, one for each class (Krizhevsky, 2009)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

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
from rotograd_cli.data.cifar10.files import CLASSES, COUNTS, SIZE, Examples, check, load
from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import Task, always_labelled, losses, metrics, select_tasks

PADDING = 4  # pixels around an image out of which augmentation cuts one of the same size
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
            official files. With a limit, files of another content are taken, and notes say so;
            so they do where a limit cuts images off.
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
        self.tasks = select_tasks(always_labelled(TASKS), tasks)
        train, test, others = load(Path(data_dir), limit, download)
        held_out = _held_out(train[1], val_share, seed)
        parts = {"train": _rows(train, ~held_out), "val": _rows(train, held_out), "test": test}
        self._images = {split: parts[split][0].to(device) for split in SPLITS}
        self._labels = {split: parts[split][1].to(device) for split in SPLITS}
        self._mean = 255 * torch.tensor(mean, device=device).view(3, 1, 1)
        self._std = 255 * torch.tensor(std, device=device).view(3, 1, 1)
        self.notes = _notes([self.num_examples(split) for split in SPLITS], others)

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
        return check(data_dir, options["limit"])


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


def _notes(counts: Sequence[int], others: Sequence[str]) -> tuple[str, ...]:
    """Return what distinguishes the data from the official files; nothing if they are these."""
    train, val, test = counts
    if (train + val, test) != COUNTS:
        return (
            f"subset: {train + val:,} of {COUNTS[0]:,} training images ({val:,} of them for "
            f"validation) and {test:,} of {COUNTS[1]:,} test images",
        )
    return (f"not CIFAR10's official files: {', '.join(others)}",) if others else ()
