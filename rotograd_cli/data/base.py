"""The data-set contract: three splits that can be read by index, on the device."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rotograd_cli.tasks import Task

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Batch:
    """Examples on the device."""

    inputs: Tensor
    """Shape ``[N, *input_shape]``."""
    targets: Mapping[str, Tensor]
    """Target of every task by name, first axis N; a missing task has no loss in this batch."""


class MultiTaskDataset(ABC):
    """A data set with K tasks and the splits train, val and test.

    Reading is by index, so that the order of an epoch is the loop's business and can be resumed
    anywhere. Constructors take keyword-only plain values; the runner supplies ``data_dir``,
    ``tasks`` and ``device``, the YAML file everything else.
    """

    name: str
    """Name in paths and tables."""
    tasks: tuple[Task, ...]
    """The chosen tasks, in order."""
    input_shape: tuple[int, ...]
    """Shape of one example's input."""

    @abstractmethod
    def num_examples(self, split: Split) -> int:
        """Number of examples of a split."""

    @abstractmethod
    def batch(self, split: Split, indices: Tensor) -> Batch:
        """Reads examples.

        Args:
            split: Which split.
            indices: Positions in the split, int64, shape ``[N]``, on the device of the data set.

        Returns:
            The examples in that order, on the device.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Short hash of the content of all splits, the same on every device."""

    def batches(self, split: Split, batch_size: int, order: Tensor) -> Iterator[Batch]:
        """Reads a split in the given order.

        Args:
            split: Which split.
            batch_size: Examples per batch; the last one may be smaller.
            order: Positions to read, int64, on the device of the data set.

        Yields:
            The batches.
        """
        parts: tuple[Tensor, ...] = torch.split(order, batch_size)
        for indices in parts:
            yield self.batch(split, indices)


def hash_tensors(*tensors: Tensor) -> str:
    """First 16 hexadecimal digits of the SHA-256 of tensors' bytes, shapes and dtypes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
