"""``data=torch``: the user's data sets with the tasks that their YAML declares."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.data.base import Batch, MultiTaskDataset, NotNegative, Split, hash_tensors
from rotograd_cli.data.torch_datasets.items import ABSENT, find, keys_of
from rotograd_cli.data.torch_datasets.loading import load
from rotograd_cli.data.torch_datasets.reading import Loaded, Pair, Reader, form_of
from rotograd_cli.data.torch_datasets.splits import make_splits
from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import Task, select_tasks
from rotograd_cli.tasks.declaring import declared_tasks
from rotograd_cli.trees import Inputs, map_tensors, shape_of_one, tensors

logger = logging.getLogger(__name__)


class TorchDatasets(MultiTaskDataset):
    """Data sets of torch's map style, one for each split.

    Order and batches are a function of seed and epoch, as for every data set here. What transforms
    draw from the global generators of Python, NumPy and torch (CPU) is a function of seed, epoch
    and the example's place in it, in whatever process; in evaluations, of the example alone. Other
    generators (``numpy.random.default_rng()``) and state kept between items are not covered.

    Args:
        data_dir: Not used; YAML files refer to it as ``${paths.data_dir}``.
        task_names: Names of the chosen tasks; None for all.
        device: Device of the batches.
        name: Name in paths and tables.
        datasets: ``train``, ``val`` and ``test`` (:func:`make_splits`).
        inputs: Where the inputs are in an item (:func:`find_inputs`).
        tasks: What :func:`declared_tasks` takes.
        collate: Makes a batch of a list of items, with inputs and targets under the keys of an
            item; None stacks them.
        num_workers: Processes that read; 0 reads in this one.
        pin_memory: Whether batches for an accelerator go through page-locked memory.

    Raises:
        ConfigError: If a split, a task, or something in an item is missing or wrong.
    """

    in_memory = False
    draws_while_reading = True
    reader_class = Reader

    @checked
    def __init__(
        self,
        *,
        data_dir: Path,
        task_names: Sequence[str] | None,
        device: torch.device,
        name: str,
        datasets: Mapping[str, Any] | None,
        inputs: str | int | Sequence[Any] | Mapping[str, Any],
        tasks: Mapping[str, Any] | None,
        collate: Callable[..., Any] | None,
        num_workers: NotNegative,
        pin_memory: bool,
    ) -> None:
        del data_dir
        self.name = name
        self.sizes_vary = collate is not None
        self._datasets = datasets
        self._inputs = inputs
        self._collate = collate
        self._declared = declared_tasks(tasks or {})
        self.tasks = select_tasks(self._declared, task_names)
        self._device = device
        self._num_workers = num_workers
        self._pin_memory = pin_memory and device.type == "cuda"
        self._readers = self._make_readers(self.tasks)
        self._example, _ = self._readers["train"].read([(0, 0)])
        self.input_shape = shape_of_one(self._example)
        for reader in self._readers.values():
            reader.example = map_tensors(lambda x: x[0], self._example)
        self.remarks = tuple(_labels_found(self._readers["train"]))
        self.notes = (*_varied(self._readers), *_channels_last(self.input_shape))

    def example_inputs(self) -> Inputs:
        """Return the inputs of the first training example."""
        return self._example

    def num_examples(self, split: Split) -> int:
        """Length of the user's data set."""
        return len(self._readers[split])

    def batch(self, split: Split, indices: Tensor) -> Batch:
        """Return examples, read in this process."""
        return self._placed(self._readers[split].read(_pairs(indices)))

    def batches(self, split: Split, parts: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield batches that workers read ahead."""
        return self._load(split, [_pairs(part) for part in parts])

    def seeded_batches(self, parts: Iterable[Tensor], seeds: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield batches to train on, each example read with its seed."""
        return self._load("train", list(map(_pairs, parts, seeds)))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the length of every split and of 16 items spread over it (or each task's).

        The others are not read: they may be pictures by the million. Items that differ when they
        are read again are left out.
        """
        digest = hashlib.sha256()
        for split, reader in self._make_readers(self._declared).items():
            digest.update(f"{split} {len(reader)}".encode())
            varying = []
            for index in reader.all_samples():
                content, again = (_hash(reader.read([(index, index)])) for _ in range(2))
                if content == again:
                    digest.update(content.encode())
                else:
                    varying.append(index)
            if varying:
                logger.warning("%s", _varies(reader, varying[0]))
        return digest.hexdigest()[:16]

    def _make_readers(self, tasks: Sequence[Task]) -> dict[Split, Reader]:
        place = f"Data set {self.name!r}, split"
        return {
            split: self.reader_class(
                dataset, f"{place} {split}", self._inputs, tasks, self._collate
            )
            for split, dataset in self._splits(tasks).items()
        }

    def _splits(self, tasks: Sequence[Task]) -> dict[Split, Any]:
        """Return the data set of every split."""
        del tasks
        return make_splits(self._datasets, "data.datasets")

    def _load(self, split: Split, batches: Sequence[list[Pair]]) -> Iterator[Batch]:
        reader = self._readers[split]
        return map(self._placed, load(reader, batches, self._num_workers, self._pin_memory))

    def _placed(self, loaded: Loaded) -> Batch:
        inputs, targets = loaded

        def moved(x: Tensor) -> Tensor:
            return x.to(self._device, non_blocking=True)

        return Batch(map_tensors(moved, inputs), {k: moved(x) for k, x in targets.items()})


def _labels_found(reader: Reader) -> Iterator[str]:
    """Yield a line with the number of labels per task in some training items, if any is missing.

    Raises:
        ConfigError: If all of them lack the key of a task: it is misspelt.
    """
    if reader.collate is not None:
        return
    items = {index: reader.item(index) for index in reader.all_samples()}
    counts = []
    for task in reader.tasks:
        chosen = {index: items[index] for index in reader.samples(task)}
        key = form_of(task).key
        if all(find(item, key) is ABSENT for item in chosen.values()):
            raise ConfigError(
                f"`data.tasks.{task.name}.target` must be a key of one of the {len(chosen)} "
                f"training items that are checked, got {key!r}; "
                f"{max(map(keys_of, chosen.values()), key=len)}. If the label is rare, give None "
                "where there is none."
            )
        targets = [reader.target(task, item, index) for index, item in chosen.items()]
        labelled = [x is not None and bool(task.num_labelled(x[None]) > 0) for x in targets]
        counts.append((task.name, sum(labelled), len(labelled)))
    if any(found < num for _, found, num in counts):
        shares = ", ".join(f"{name} {found} of {num}" for name, found, num in counts)
        yield f"Labels in training items that were checked: {shares}."


def _hash(loaded: Loaded) -> str:
    inputs, targets = loaded
    return hash_tensors(*tensors(inputs), *targets.values())


def _varies(reader: Reader, index: int) -> str:
    dataset, local = reader.source(index)
    return (
        f"{reader.place}: {type(dataset).__name__}[{local}] is another item when it is read again, "
        "although Python, NumPy and torch are seeded alike; runs on it can be neither repeated nor "
        "resumed exactly. Let it draw from torch.rand or np.random.rand, and keep nothing."
    )


def _varied(readers: Mapping[Split, Reader]) -> Iterator[str]:
    """Return notes for evaluated splits whose examples are not read as they are."""
    for split in ("val", "test"):
        reader = readers[split]
        firsts = {reader.samples(task)[0] for task in reader.tasks}
        drawing = sorted(index for index in firsts if reader.draws(index))
        if drawing:
            dataset, _ = reader.source(drawing[0])
            yield (
                f"split {split} is evaluated on examples that {type(dataset).__name__} varies at "
                "random; for plain ones give it a data set of its own, without augmentation"
            )


def _channels_last(shape: Any) -> Iterator[str]:
    """Return a note for what may be a picture with its channels on the last axis."""
    if len(shape) != 3 or not all(isinstance(size, int) for size in shape):
        return
    height, width, num = shape
    if num in (1, 3, 4) and num < min(height, width) and height not in (1, 3, 4):
        yield (
            f"inputs {list(shape)} are read as {height} channels of {width} x {num}; if the "
            "channels are last, return x.permute(2, 0, 1)"
        )


def _pairs(indices: Tensor, seeds: Tensor | None = None) -> list[Pair]:
    """Return positions and seeds; in evaluations an example's seed is its position."""
    positions = indices.tolist()
    return list(zip(positions, positions if seeds is None else seeds.tolist(), strict=True))
