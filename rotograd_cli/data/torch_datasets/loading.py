"""Reading batches in worker processes of torch's loader."""

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from rotograd_cli.data.torch_datasets.reading import Loaded, Pair, Reader
from rotograd_cli.errors import RotogradError
from rotograd_cli.user_code import blamed


def load(
    reader: Reader, batches: Sequence[list[Pair]], num_workers: int, pin_memory: bool
) -> Iterator[Loaded]:
    """Yield batches in order, read ahead by worker processes of torch's loader.

    Args:
        reader: The split.
        batches: The examples of every batch.
        num_workers: Number of processes; 0 reads here.
        pin_memory: Whether batches are put into page-locked memory.

    Raises:
        ConfigError: If an example cannot be read, or the workers fail.
    """
    loader = DataLoader(
        _Batches(reader),
        batch_sampler=batches,
        num_workers=min(num_workers, len(batches)),
        pin_memory=pin_memory,
        collate_fn=_unchanged,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # the loader draws a number that nothing here depends on
    )
    remedy = "set data.num_workers=0"  # they cannot be started, or one has died
    with blamed("the workers of torch's DataLoader fail", remedy, reader.place, files=True):
        for result in loader:
            if isinstance(result, RotogradError):
                raise result
            yield result


class _Batches(Dataset[Any]):
    """A split whose items torch's loader asks for by the batch."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __getitems__(self, pairs: Sequence[Pair]) -> Loaded | RotogradError:
        """Return a batch, or its error: raised in a worker, it would lose its one line."""
        try:
            return self._reader.read(pairs)
        except RotogradError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def _begin_worker(worker: int) -> None:
    """Leave Ctrl-C to the main process, which finishes its step; end at once when it says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
