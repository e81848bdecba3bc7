"""The data-set contract: three splits that can be read by index, on the device."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from rotograd_cli.errors import ConfigError, DatasetError
from rotograd_cli.metric_keys import Split as Split
from rotograd_cli.tasks import Task
from rotograd_cli.trees import Inputs, num_rows

SPLITS: tuple[Split, ...] = ("train", "val", "test")
NotNegative = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
Permuted = Callable[..., Tensor]
Seed = Annotated[int, Ge(0), Lt(2**32)]


@dataclass(frozen=True)
class Batch:
    """Examples on the device."""

    inputs: Any
    """A tensor ``[N, *input_shape]``; or tensors in tuples (what the backbone takes by position)
    and dictionaries (by keyword), first axis N: :data:`rotograd_cli.trees.Inputs`."""
    targets: Mapping[str, Tensor]
    """Target of every task by name, first axis N; a missing task has no loss in this batch."""

    def __len__(self) -> int:
        """N."""
        return num_rows(self.inputs)


@dataclass(frozen=True)
class FileCheck:
    """Result of looking at one file, or at one group of files."""

    what: str
    """The file or group, as the user knows it."""
    ok: bool
    """Whether it is there and right."""
    found: str
    """Description of what is there, in a few words."""
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
    """File that the user named as the source (``--from``); None for those in the data root."""
    workers: int
    """Number of threads that decode."""
    say: Callable[[str], None]
    """Reports one line to the user."""
    progress: Callable[[str, int, int], None]
    """Reports what is being done, how many are done and how many there are."""


class MultiTaskDataset(ABC):
    """A data set with K tasks and the splits train, val and test.

    Examples are read by index: the loop decides the order of an epoch and can resume it anywhere.
    Constructors take keyword-only plain values; the runner supplies ``data_dir``, ``tasks`` and
    ``device``, the YAML file everything else.
    """

    name: str
    """Name in paths and tables."""
    tasks: tuple[Task, ...]
    """The chosen tasks, in order."""
    input_shape: tuple[int, ...]
    """Shape of one example's input; of inputs in a tree, the tree of their shapes."""
    notes: tuple[str, ...] = ()
    """What every table of a run on these data must say: a subset, a metric's protocol."""
    remarks: tuple[str, ...] = ()
    """Lines that the log has when a run begins, and nothing else."""
    sizes_vary: bool = False
    """Whether axes of the inputs beyond the first may have another size in each batch."""
    in_memory: ClassVar[bool] = True
    """Whether batches are there at once; a data set that reads files is looked at less before
    training."""
    draws_while_reading: ClassVar[bool] = False
    """Whether training examples are varied at random while they are read."""
    num_draws: ClassVar[int] = 0
    """Number of random numbers that :meth:`augment` takes for each example."""

    @abstractmethod
    def num_examples(self, split: Split) -> int:
        """Number of examples of a split."""

    @abstractmethod
    def batch(self, split: Split, indices: Tensor) -> Batch:
        """Return examples in the given order, on the device, without augmentation.

        Args:
            split: The split.
            indices: Positions in the split, int64, shape ``[N]``, on the CPU.
        """

    def example_inputs(self) -> Inputs:
        """Return inputs that networks are tried on before training, first axis 1, on the CPU.

        Zeros of :attr:`input_shape` by default; inputs that are no plain numbers need a real one.
        """
        return torch.zeros(1, *self.input_shape)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the content of all splits, 16 digits, the same on every device."""

    def example_names(self, split: Split, indices: Tensor) -> Sequence[str] | None:
        """Return what examples are called outside of this data set; None where they have no names.

        Args:
            split: The split.
            indices: Positions in the split, as :meth:`batch` takes them.
        """
        return None

    def batches(self, split: Split, parts: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield batch after batch; a data set on disk overrides this to read ahead.

        Args:
            split: The split.
            parts: Positions of every batch, as :meth:`batch` takes them.
        """
        for indices in parts:
            yield self.batch(split, indices)

    def seeded_batches(self, parts: Iterable[Tensor], seeds: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield batches to train on; only where :attr:`draws_while_reading`.

        Args:
            parts: Positions of every batch in the training split.
            seeds: Seeds of their examples, which all random numbers come from.
        """
        raise NotImplementedError

    def batches_per_epoch(self, batch_size: int) -> int:
        """Return the number of batches of an epoch of training; an incomplete one is left out."""
        return self.num_examples("train") // batch_size

    def epoch_order(self, num: int, batch_size: int, permuted: Permuted) -> Tensor:
        """Return the positions that an epoch trains on, int64, shape ``[num * batch_size]``.

        Args:
            num: Number of batches, at most :meth:`batches_per_epoch`.
            batch_size: Examples of each.
            permuted: Maps a number n, and words that tell several orders apart, to a permutation
                of 0..n-1, a function of the run's seed and the epoch.
        """
        return permuted(self.num_examples("train"))[: num * batch_size]

    def augment(self, batch: Batch, draws: Tensor) -> Batch:
        """Return a random variation of training examples, by default the examples themselves.

        The result depends on the arguments alone.

        Args:
            batch: Result of :meth:`batch`.
            draws: Uniform in [0, 1), shape ``[N, num_draws]``, on the device.
        """
        return batch

    def images(self, inputs: Tensor) -> Tensor | None:
        """Return inputs as images to look at; a data set that normalises them undoes it here.

        By default grey or colour images, ``[N, 1 or 3, H, W]``, are stretched one by one from their
        smallest to their largest value, and other inputs are no images.

        Args:
            inputs: As :meth:`batch` returns them, shape ``[N, *input_shape]``.

        Returns:
            Intensities in [0, 1], shape ``[N, C, H, W]`` with C = 1 or 3; None for no images.
        """
        if inputs.dim() != 4 or inputs.shape[1] not in (1, 3):
            return None
        inputs = inputs if inputs.is_floating_point() else inputs.float()
        low = inputs.amin((1, 2, 3), keepdim=True)
        span = inputs.amax((1, 2, 3), keepdim=True) - low
        return (inputs - low) / torch.where(span > 0, span, 1)

    @classmethod
    def check_files(cls, *, data_dir: Path, options: Mapping[str, Any]) -> Sequence[FileCheck]:
        """Look at the files for ``rotograd data check``; by default none are needed.

        Args:
            data_dir: Data root.
            options: The constructor's options, without those that the runner supplies.
        """
        return ()

    @classmethod
    def prepare(cls, *, data_dir: Path, options: Mapping[str, Any], how: Preparation) -> None:
        """Write what training reads for ``rotograd data prepare``.

        Args:
            data_dir: Data root.
            options: The constructor's options, without those that the runner supplies.
            how: Source, number of threads, where to report.

        Raises:
            ConfigError: If the data set needs no preparation.
            DatasetError: If a source file is absent or corrupt.
        """
        raise ConfigError(f"{cls.__name__} needs no preparation; train on it as it is.")


def in_parts(order: Tensor, size: int) -> Sequence[Tensor]:
    """Cut an order into parts of ``size`` rows; the last one may have fewer."""
    parts: Sequence[Tensor] = torch.split(order, size)
    return parts


def hash_tensors(*tensors: Tensor) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of tensors' bytes, shapes and dtypes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def readable(num_bytes: int) -> str:
    """Return a size in the unit that shows its first digits, as in 18 kB or 2.49 GB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes} bytes"
