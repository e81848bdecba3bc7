"""The data-set contract: three splits that can be read by index, on the device."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError, DatasetError
from rotograd_cli.tasks import Task

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Batch:
    """Examples on the device."""

    inputs: Tensor
    """Shape ``[N, *input_shape]``."""
    targets: Mapping[str, Tensor]
    """Target of every task by name, first axis N; a missing task has no loss in this batch."""


@dataclass(frozen=True)
class FileCheck:
    """What was found of one file, or of one group of files."""

    what: str
    """The file or group, as the user knows it."""
    ok: bool
    """Whether it is there and right."""
    found: str
    """What was found, in a few words."""
    remedy: str = ""
    """What to do about it; empty where it is fine."""

    @classmethod
    def of(cls, what: str, look: Callable[[], str]) -> "FileCheck":
        """Look at a file.

        Args:
            what: The file or group, as the user knows it.
            look: Returns what was found. It raises a :class:`DatasetError` where that is wrong,
                whose message ends with a semicolon and the remedy.
        """
        try:
            return cls(what, True, look())
        except DatasetError as error:
            return cls.refused(what, error)

    @classmethod
    def refused(cls, what: str, error: DatasetError) -> "FileCheck":
        """Result of a look that ended with an error."""
        found, _, remedy = str(error).rpartition("; ")
        return cls(what, False, found, remedy)


@dataclass(frozen=True)
class Preparation:
    """How a data set is to be prepared, and where to report."""

    source: Path | None
    """File that the user named as the source (``--from``); None takes what is in the data root."""
    workers: int
    """Threads that decode."""
    say: Callable[[str], None]
    """Takes a line for the user."""
    progress: Callable[[str, int, int], None]
    """Told what is being done, how much is done and how much there is."""


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
    notes: tuple[str, ...] = ()
    """What every table of a run on these data must say: a subset, a metric's protocol."""
    num_draws: ClassVar[int] = 0
    """Random numbers that :meth:`augment` takes for every example."""

    @abstractmethod
    def num_examples(self, split: Split) -> int:
        """Number of examples of a split."""

    @abstractmethod
    def batch(self, split: Split, indices: Tensor) -> Batch:
        """Reads examples, without augmentation.

        Args:
            split: Which split.
            indices: Positions in the split, int64, shape ``[N]``, on the CPU.

        Returns:
            The examples in that order, on the device.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Short hash of the content of all splits, the same on every device."""

    def batches(self, split: Split, parts: Iterable[Tensor]) -> Iterator[Batch]:
        """Reads batch after batch; a data set on disk overrides this to read ahead.

        Args:
            split: Which split.
            parts: Positions of every batch, as :meth:`batch` takes them.

        Yields:
            The batches.
        """
        for indices in parts:
            yield self.batch(split, indices)

    def augment(self, batch: Batch, draws: Tensor) -> Batch:
        """A random variation of training examples: a function of its arguments alone.

        Args:
            batch: What :meth:`batch` returned.
            draws: Uniform in [0, 1), shape ``[N, num_draws]``, on the device.

        Returns:
            The examples to train on; these very ones by default.
        """
        return batch

    @classmethod
    def check_files(cls, *, data_dir: Path, options: Mapping[str, Any]) -> Sequence[FileCheck]:
        """Looks at the files of the data set, as ``rotograd data check`` does.

        Args:
            data_dir: Data root.
            options: The constructor's options, without what the runner supplies.

        Returns:
            What was found; nothing where no file is needed.
        """
        return ()

    @classmethod
    def prepare(cls, *, data_dir: Path, options: Mapping[str, Any], how: Preparation) -> None:
        """Writes what training reads, as ``rotograd data prepare`` does.

        Args:
            data_dir: Data root.
            options: The constructor's options, without what the runner supplies.
            how: Source, number of threads, whom to tell.

        Raises:
            ConfigError: If the data set needs no preparation.
            DatasetError: If a source file is absent or corrupt.
        """
        raise ConfigError(f"{cls.__name__} needs no preparation; train on it as it is.")


def in_parts(order: Tensor, size: int) -> Sequence[Tensor]:
    """Cuts an order into batches.

    Args:
        order: Shape ``[N, ...]``.
        size: Rows per part; the last one may have fewer.

    Returns:
        The parts.
    """
    parts: Sequence[Tensor] = torch.split(order, size)
    return parts


def hash_tensors(*tensors: Tensor) -> str:
    """First 16 hexadecimal digits of the SHA-256 of tensors' bytes, shapes and dtypes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
