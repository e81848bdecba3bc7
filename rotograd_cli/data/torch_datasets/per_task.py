"""``data=torch_per_task``: separate data sets for each task."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from rotograd_cli.data.base import SPLITS, Permuted, Split
from rotograd_cli.data.torch_datasets.dataset import TorchDatasets
from rotograd_cli.data.torch_datasets.reading import Reader, spread, unwrapped
from rotograd_cli.data.torch_datasets.splits import make_splits
from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import Task

_EPOCHS = ("longest", "shortest", "sum")
_STREAM = 3
"""Random stream of the orders of the tasks' examples; no other random numbers use it."""


class Joined(ConcatDataset[Any]):
    """The examples of several data sets, spread evenly over one.

    Args:
        datasets: The data sets, with ``__len__`` and ``__getitem__``.
    """

    def __init__(self, datasets: Sequence[Any]) -> None:
        super().__init__(datasets)
        self.lengths = [len(dataset) for dataset in datasets]
        self._order = interleaved(self.lengths)
        self._inverse = self._order.argsort()

    def __getitem__(self, index: int) -> Any:
        k, local = self.place(index)
        return self.datasets[k][local]

    def place(self, index: int) -> tuple[int, int]:
        """Return the number of the data set of an example, and its index there."""
        row = int(self._order[index])
        k = bisect_right(self.cumulative_sizes, row)
        return k, row - self._start(k)

    def position(self, k: int, local: Tensor) -> Tensor:
        """Return where the examples of a data set are."""
        return self._inverse[local + self._start(k)]

    def _start(self, k: int) -> int:
        return self.cumulative_sizes[k] - self.lengths[k]


class PerTaskReader(Reader):
    """Reads the target of the task that an example belongs to, and none of the others."""

    def source(self, index: int) -> tuple[Any, int]:
        """See :class:`Reader`."""
        k, local = self.dataset.place(index)
        return unwrapped(self.dataset.datasets[k], local)

    def samples(self, task: Task) -> list[int]:
        """See :class:`Reader`."""
        k = self.tasks.index(task)
        joined: Joined = self.dataset
        return joined.position(k, torch.tensor(spread(joined.lengths[k]))).tolist()

    def target(self, task: Task, item: Any, index: int) -> Tensor | None:
        """See :class:`Reader`."""
        k, _ = self.dataset.place(index)
        return super().target(task, item, index) if self.tasks[k] is task else None


def interleaved(lengths: Sequence[int]) -> Tensor:
    """Return the order in which parts of these lengths, one after the other, are spread evenly."""
    places = [(torch.arange(num, dtype=torch.float64) + 0.5) / num for num in lengths]
    return torch.cat(places).argsort(stable=True)


class PerTaskDatasets(TorchDatasets):
    """Separate data sets for each task.

    A step takes examples of every task. They go through the network as one batch, in which an
    example has no label for the other tasks: a task's loss is the mean over its own examples. A
    task that runs out of examples before the epoch ends begins again, in another order.

    Args:
        epoch: Number of steps of an epoch: ``longest`` goes once through the task with the most
            batches, ``shortest`` through that with the fewest, ``sum`` takes as many examples as
            all tasks have; or a number.
        batch_sizes: By task, its examples in a step; their sum is ``train.batch_size``. None gives
            each task an equal share.
        datasets: By task, its ``train``, ``val`` and ``test``.
        collate: Must be None: examples of several tasks are stacked.
        **options: Those of :class:`TorchDatasets`.

    Raises:
        ConfigError: If an option is wrong.
    """

    reader_class = PerTaskReader

    def __init__(
        self,
        *,
        epoch: str | int,
        batch_sizes: Mapping[str, int] | None,
        datasets: Mapping[str, Any] | None,
        collate: None = None,
        **options: Any,
    ) -> None:
        if epoch not in _EPOCHS and not (type(epoch) is int and epoch > 0):
            raise ConfigError(
                f"`data.epoch` must be one of {', '.join(_EPOCHS)}, or a number of steps, got "
                f"{epoch!r}; data.epoch={_EPOCHS[0]}."
            )
        self._epoch = epoch
        self._batch_sizes = batch_sizes
        super().__init__(datasets=datasets, collate=collate, **options)

    def batches_per_epoch(self, batch_size: int) -> int:
        """Return the number of steps of an epoch."""
        sizes = self._sizes(batch_size)
        nums = self._joined.lengths
        if self._epoch == "sum":
            return sum(nums) // batch_size
        if isinstance(self._epoch, int):
            return self._epoch
        choose = max if self._epoch == "longest" else min
        return max(1, choose(num // size for num, size in zip(nums, sizes, strict=True)))

    def epoch_order(self, num: int, batch_size: int, permuted: Permuted) -> Tensor:
        """Return positions: those of every step mixed, each task's in an order of its own."""
        sizes = self._sizes(batch_size)
        columns = []
        for k, (length, size) in enumerate(zip(self._joined.lengths, sizes, strict=True)):
            rounds = range(-(-num * size // length))
            stream = torch.cat([permuted(length, _STREAM, k, cycle) for cycle in rounds])
            columns.append(self._joined.position(k, stream[: num * size]).view(num, size))
        return torch.cat(columns, 1)[:, interleaved(sizes)].flatten()

    @property
    def _joined(self) -> Joined:
        joined: Joined = self._readers["train"].dataset
        return joined

    def _sizes(self, batch_size: int) -> list[int]:
        """Return the number of examples of each task in a step."""
        names = [task.name for task in self.tasks]
        given: Any = self._batch_sizes
        sizes: list[Any] = [batch_size // len(names)] * len(names)
        if given is not None:
            sizes = [given.get(n) for n in names] if isinstance(given, Mapping) else [None]
        if not all(type(n) is int and n > 0 for n in sizes) or sum(sizes) != batch_size:
            raise ConfigError(
                f"`data.batch_sizes` must have a number above 0 for each of {', '.join(names)}, "
                f"or null for equal shares, which add up to train.batch_size={batch_size}, got "
                f"{given}; change one of them."
            )
        return sizes

    def _splits(self, tasks: Sequence[Task]) -> dict[Split, Any]:
        names = [task.name for task in tasks]
        given = self._datasets
        if not isinstance(given, Mapping) or not set(names) <= given.keys():
            raise ConfigError(
                "`data.datasets` must have train, val and test of every task, by its name: "
                f"{', '.join(names)}; got {list(given or ())}."
            )
        by_task = [make_splits(given[name], f"data.datasets.{name}") for name in names]
        return {split: Joined([splits[split] for splits in by_task]) for split in SPLITS}
