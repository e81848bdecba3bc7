"""Data sets on disk: rows are read ahead by a thread and decoded on the device."""

import hashlib
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, hash_tensors
from rotograd_cli.data.prepared import PreparedArrays

T = TypeVar("T")
U = TypeVar("U")


class StoredDataset(MultiTaskDataset):
    """A data set whose splits are prepared rows.

    A thread copies the rows of the next batches out of the memory-mapped files (to page-locked
    memory for an accelerator) while the current batch is computed; types are converted on the
    device.

    Args:
        arrays: Prepared rows, those of all splits done.
        rows: Rows of each split, in order.
        device: Where batches are wanted.
        read_ahead: Batches that are read before they are asked for; 0 reads when asked.
        held: Further arrays of each split by name, which stay in memory; None for none.
    """

    in_memory = False

    def __init__(
        self,
        *,
        arrays: PreparedArrays,
        rows: Mapping[Split, Sequence[int] | np.ndarray],
        device: torch.device,
        read_ahead: int,
        held: Mapping[Split, Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        self._arrays = arrays
        self._device = device
        self._read_ahead = read_ahead
        self._rows = {split: np.asarray(chosen, np.int64) for split, chosen in rows.items()}
        self._held = held or {split: {} for split in rows}

    @abstractmethod
    def decode(self, rows: Mapping[str, Tensor]) -> Batch:
        """Make a batch on the device: inputs and the chosen tasks' targets.

        Args:
            rows: Rows of every array in :attr:`fields` and of those in memory, as stored, on the
                device, first axis N.
        """

    @property
    def fields(self) -> Sequence[str]:
        """Prepared arrays that :meth:`decode` needs; all by default."""
        return list(self._arrays.fields)

    def num_examples(self, split: Split) -> int:
        """Number of rows of a split."""
        return len(self._rows[split])

    def example_names(self, split: Split, indices: Tensor) -> list[str]:
        """Return the (first) source file of every row, relative to the folder of the sources."""
        return [self._arrays.files_of(row)[0] for row in self._rows[split][indices.numpy()]]

    def batch(self, split: Split, indices: Tensor) -> Batch:
        """Return rows of a split, decoded on the device."""
        return self._decoded(self._read(split, indices))

    def batches(self, split: Split, parts: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield batches, the next rows read while a batch is in use."""
        for rows in read_ahead(partial(self._read, split), parts, self._read_ahead):
            yield self._decoded(rows)

    @property
    def fingerprint(self) -> str:
        """Hash of the settings of the preparation and of all splits' content."""
        parts = []
        for split, rows in self._rows.items():
            held = [torch.from_numpy(array) for array in self._held[split].values()]
            parts.append(f"{split} {self._arrays.fingerprint(rows)} {hash_tensors(*held)}")
        return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16]

    def _read(self, split: Split, indices: Tensor) -> dict[str, Tensor]:
        positions = indices.numpy()
        rows = self._rows[split][positions]
        result = {}
        for name in self.fields:
            field = self._arrays.fields[name]
            result[name] = self._buffer((len(rows), *field.shape), np.dtype(field.dtype))
            self._arrays.take(name, rows, result[name].numpy())
        for name, array in self._held[split].items():
            result[name] = self._buffer((len(rows), *array.shape[1:]), array.dtype)
            np.take(array, positions, axis=0, out=result[name].numpy(), mode="clip")
        return result

    def _buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        pinned = self._device.type == "cuda"
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        return torch.empty(shape, dtype=kind, pin_memory=pinned)

    def _decoded(self, rows: Mapping[str, Tensor]) -> Batch:
        moved = {name: x.to(self._device, non_blocking=True) for name, x in rows.items()}
        return self.decode(moved)


def channels_first(images: Tensor) -> Tensor:
    """Return maps ``[N, C, H, W]``, float32, of stored ones ``[N, H, W, C]``."""
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def read_ahead(read: Callable[[T], U], items: Iterable[T], depth: int) -> Iterator[U]:
    """Yield a function's results in order, computed in one thread, a few ahead of the consumer.

    When the consumer stops early, at most one more call is waited for.

    Args:
        read: Called in the thread; its exception is raised where the result is asked for.
        items: Arguments.
        depth: Largest number of results that wait for the consumer; 0 calls without a thread.
    """
    if depth == 0:
        yield from map(read, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        pending: deque[Future[U]] = deque(pool.submit(read, x) for x in islice(remaining, depth))
        try:
            while pending:
                value = pending.popleft().result()
                pending.extend(pool.submit(read, x) for x in islice(remaining, 1))
                yield value
        finally:
            for future in pending:
                future.cancel()
