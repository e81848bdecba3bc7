"""An evaluation that several processes share, with the bits of one process."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rotograd_cli.ranks.base import Ranks

if TYPE_CHECKING:
    from torchmetrics import Metric

TOGETHER = 2
"""Consecutive batches that one process evaluates: a metric may pair an odd image with the next."""


class SharedSums:
    """Sums over the batches of a split that are spread over processes.

    Integers are added in any order. Sums in floating point depend on it, so what each batch adds is
    kept, and added up at the end in the order of the split.

    Args:
        sums: Sums beside those of the metrics; read and written in place.
        metrics: The metrics.
    """

    def __init__(self, sums: Sequence[Tensor], metrics: Iterable["Metric"]) -> None:
        self.sums, self.metrics = sums, list(metrics)
        self.positions: list[int] = []
        self.rows: list[Tensor] = []
        for metric in self.metrics:
            metric.distributed_available_fn = _never  # sums are combined here

    def close_batch(self, position: int) -> None:
        """Notes what a batch has added.

        Args:
            position: Of the batch in the split.
        """
        self.positions.append(position)
        self.rows.append(torch.cat([sums.flatten().double() for sums in self.sums_of_reals()]))
        for sums in self.sums_of_reals():
            sums.zero_()

    def combine(self, ranks: Ranks, num_batches: int) -> bool:
        """Gives all processes the sums over the whole split.

        Args:
            ranks: The processes.
            num_batches: Of the split.

        Returns:
            Whether this process has the last batch, and with it what metrics keep until they are
            computed.
        """
        self._combine_reals(ranks, num_batches)
        for _, state in self._states(floating=False):
            state.copy_(ranks.sum(state))
        called = ranks.sum(torch.tensor([int(m.update_called) for m in self.metrics] or [0]))
        for metric, num in zip(self.metrics, called.tolist(), strict=False):
            metric._update_count = num  # its only use: whether there is anything to compute
        return (num_batches - 1) // TOGETHER % ranks.size == ranks.rank

    def sums_of_reals(self) -> list[Tensor]:
        """The sums in floating point, those of the metrics included."""
        return [*self.sums, *(state for _, state in self._states(floating=True))]

    def _combine_reals(self, ranks: Ranks, num_batches: int) -> None:
        sums = self.sums_of_reals()
        width = sum(state.numel() for state in sums)
        table = torch.zeros(num_batches, width, dtype=torch.float64, device=self.sums[0].device)
        if self.rows:
            table[torch.tensor(self.positions, device=table.device)] = torch.stack(self.rows)
        columns = ranks.sum(table).cpu().split([state.numel() for state in sums], dim=1)  # type: ignore[no-untyped-call]
        for state, column in zip(sums, columns, strict=True):
            total = torch.zeros(state.numel(), dtype=state.dtype)
            for row in column.to(state.dtype):
                total += row
            state.copy_(total.view(state.shape))

    def _states(self, *, floating: bool) -> Iterator[tuple[str, Tensor]]:
        for metric in self.metrics:
            states: Mapping[str, object] = metric._defaults
            for name in states:
                value = getattr(metric, name)
                if isinstance(value, Tensor) and value.is_floating_point() == floating:
                    yield name, value


def _never() -> bool:
    return False
