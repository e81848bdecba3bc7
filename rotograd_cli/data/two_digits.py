"""Two digits in one image, and the paper's five tasks on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.data.base import SPLITS, Batch, MultiTaskDataset, Split, hash_tensors
from rotograd_cli.tasks import Task, always_labelled, losses, metrics, select_tasks

SIZE = 28  # of MNIST's digits and of two that overlap, in pixels
CANVAS = 36
OFFSET = 6  # of the right digit from the top left corner

TASKS = (
    Task("left", 10, losses.cross_entropy, (metrics.accuracy(10),)),
    Task("right", 10, losses.cross_entropy, (metrics.accuracy(10),)),
    Task("sum", 1, losses.mean_squared_error, (metrics.mse(),)),
    Task("parity", 1, losses.binary_cross_entropy, (metrics.f1(),)),
    Task("pixels", 1, losses.mean_squared_error, (metrics.mse(),)),
)


@dataclass(frozen=True)
class Digits:
    """Single digits."""

    images: Tensor
    """Grey levels, uint8, shape ``[N, H, W]``."""
    labels: Tensor
    """int64 in 0..9, shape ``[N]``."""


Composition = Callable[[Tensor, Tensor], Tensor]
"""Joins left and right digits, each ``[N, H, W]``, into images; changes neither argument."""


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Join digits ``[N, H, W]`` into images ``[N, H, 2 W]``, the left one first."""
    return torch.cat((left, right), dim=2)


def overlap(left: Tensor, right: Tensor) -> Tensor:
    """Put two digits into one image (Sener and Koltun, NeurIPS 2018).

    The left digit goes to rows and columns 0..27 of a 36×36 canvas, the right one to 6..33, the
    overlap takes the larger value, and the canvas is resized to 28×28 by nearest neighbour (pixel
    centres, as PIL). Only copies and maxima, so the result is the same on every device.

    Args:
        left: uint8, shape ``[N, 28, 28]``, like the result.
        right: Likewise.
    """
    canvas = left.new_zeros(left.shape[0], CANVAS, CANVAS)
    canvas[:, :SIZE, :SIZE] = left
    corner = canvas[:, OFFSET : OFFSET + SIZE, OFFSET : OFFSET + SIZE]
    torch.maximum(corner, right, out=corner)
    # centre of target pixel i in the canvas: (i + 1/2) * 36/28
    rows = ((2 * torch.arange(SIZE, device=left.device) + 1) * CANVAS) // (2 * SIZE)
    return canvas[:, rows[:, None], rows]


class TwoDigits(MultiTaskDataset):
    """Two-digit images composed from single digits, with the five tasks of the paper.

    The tasks are the ``left`` and the ``right`` digit (cross-entropy, accuracy), the ``sum`` of the
    digits (MSE), the ``parity`` of their product (BCE, F1; odd is the positive class), and
    ``pixels`` (MSE), the number of active pixels: those above half of the full intensity,
    standardised by mean and standard deviation over the training split (the paper does not state
    its unit).

    Args:
        digits: Single digits of each split; splits share none.
        compose: How two digits become one image.
        tasks: Names of the wanted tasks; None for all five.
        partners: Right digits drawn for every left digit.
        seed: Seed of the partners, independent of the seed of a run.
        mean: Pixel mean of the normalisation, in units of full intensity.
        std: Pixel standard deviation of the normalisation.
        device: Where the images live.
    """

    def __init__(
        self,
        *,
        digits: Mapping[Split, Digits],
        compose: Composition,
        tasks: Sequence[str] | None,
        partners: int,
        seed: int,
        mean: float,
        std: float,
        device: torch.device,
    ) -> None:
        self.tasks = select_tasks(always_labelled(TASKS), tasks)
        self._mean = 255 * mean
        self._std = 255 * std
        generator = torch.Generator().manual_seed(seed)
        self._images: dict[Split, Tensor] = {}
        self._targets: dict[Split, dict[str, Tensor]] = {}
        for split in SPLITS:
            num = digits[split].labels.shape[0]
            # partner i belongs to left digit i % num, and is of the same split
            right = torch.randint(num, (partners * num,), generator=generator).to(device)
            left = torch.arange(num, device=device).repeat(partners)
            images = digits[split].images.to(device)
            labels = digits[split].labels.to(device)
            self._images[split] = compose(images[left], images[right])
            self._targets[split] = _targets(self._images[split], labels[left], labels[right])
        self.input_shape = (1, *self._images["train"].shape[1:])
        self._standardise_pixels()

    def num_examples(self, split: Split) -> int:
        """Return the number of composed images of a split."""
        return self._images[split].shape[0]

    def batch(self, split: Split, indices: Tensor) -> Batch:
        """Return normalised images ``[N, 1, H, W]`` and the chosen tasks' targets ``[N]``."""
        indices = indices.to(self._images[split].device)
        images = self._images[split][indices].unsqueeze(1).float()
        targets = {task.name: self._targets[split][task.name][indices] for task in self.tasks}
        return Batch((images - self._mean) / self._std, targets)

    def images(self, inputs: Tensor) -> Tensor:
        """Return the grey images before their normalisation."""
        return (inputs * self._std + self._mean) / 255

    @property
    def fingerprint(self) -> str:
        """Hash of all images and labels."""
        return hash_tensors(
            *(self._images[split] for split in SPLITS),
            *(self._targets[split][key] for split in SPLITS for key in ("left", "right")),
        )

    def _standardise_pixels(self) -> None:
        counts = self._targets["train"]["pixels"].double().cpu()  # the CPU's sum, on every device
        mean, std = float(counts.mean()), float(counts.std())
        for targets in self._targets.values():
            targets["pixels"] = ((targets["pixels"].double() - mean) / std).float()


def _targets(images: Tensor, left: Tensor, right: Tensor) -> dict[str, Tensor]:
    return {
        "left": left,
        "right": right,
        "sum": (left + right).float(),
        "parity": (left * right % 2).float(),
        "pixels": (images > 127).sum((1, 2)),
    }
