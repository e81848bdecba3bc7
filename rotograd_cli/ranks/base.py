"""The processes that train one model together, as a method sees them; here there is only one.

Each process ("rank") has a part of each batch, and its part of a task's loss: the parts add up to
the batch's loss. What a method computes from single examples stays with the rank that has them;
what is a sum over the examples of the batch (losses, squared norms, inner products, gradients of
parameters) goes through :meth:`Ranks.sum`.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rotograd_cli.trees import Inputs

T = TypeVar("T")


@dataclass
class Traffic:
    """Collective operations of this process so far."""

    calls: int = 0
    num_bytes: int = 0
    """Size of the tensors that they reduced or broadcast."""

    def count(self, tensor: Tensor) -> None:
        """Add one operation on ``tensor``."""
        self.calls += 1
        self.num_bytes += tensor.numel() * tensor.element_size()


class Ranks:
    """One process, which has the whole batch: every sum is over its examples."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    signal: int = 0
    """Signal that asked this process to stop; the others learn of it at the next step."""
    signal_of_all: int = 0
    """Signal that asked some process to stop, the same number on all processes."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """Return this process's rows of a batch; parts differ by at most one row."""
        return rows

    def begin_step(self, present: Sequence[Sequence[bool]], num_examples: int) -> list[list[bool]]:
        """Exchange what each process has of an optimiser step.

        Args:
            present: For every micro-batch, whether each task has a target here.
            num_examples: Number of examples of a micro-batch here.

        Returns:
            For every micro-batch, whether each task has a target on any process.
        """
        del num_examples
        return [list(tasks) for tasks in present]

    def check_pass(
        self, losses: Sequence[Tensor | None], num_rows: int, *, accumulating: bool
    ) -> None:
        """Refuse a backward pass in which the processes would not fit together.

        Args:
            losses: K scalars; None for an absent task.
            num_rows: Rows of the batch that this process has.
            accumulating: Whether more micro-batches of the optimiser step follow.
        """

    def share(self, loss: Tensor) -> Tensor:
        """Return this process's part of a loss, from the loss that a loop handed over."""
        return loss

    def whole(self, values: Tensor) -> Tensor:
        """Return losses of the whole batch from what a loop measured; here they are."""
        return values

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the processes, the same bits on all; the argument is not changed."""
        return tensor

    def norms(self, norms: Tensor) -> Tensor:
        """Return norms over the whole batch from norms over this process's examples."""
        return norms

    def num_rows(self, rows: int) -> int:
        """Return the length of the first axis of features in the whole batch from that here."""
        return rows

    def draw(self, fill: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        """Return random numbers for this process's rows, drawn for the whole batch.

        So all generators stay in step, and the numbers are those that one process draws.

        Args:
            fill: Fills a tensor in place with random numbers.
            like: Has the shape, type and device of the result; examples on the first axis.
        """
        return fill(torch.empty_like(like, memory_format=torch.contiguous_format))

    def shard(self, num: int) -> slice:
        """Return which of ``num`` independent items this process computes for all."""
        return slice(0, num)

    def all_gather(self, stack: Tensor) -> None:
        """Fill a stack, in place, with the items that the other processes have computed.

        Args:
            stack: Items on the first axis; those of :meth:`shard` are computed.
        """

    def reduce_scatter(self, stack: Tensor) -> None:
        """Replace items, in place, by their sums over the processes.

        Args:
            stack: Items on the first axis; those outside :meth:`shard` become zero.
        """

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over the processes, in one operation per dtype."""

    def attach(self, model: nn.Module, example: Inputs) -> None:
        """Prepare a model whose steps the processes share.

        Args:
            model: Has a ``backbone``; on its device.
            example: Inputs of one example, on any device.
        """

    def run(self, backbone: nn.Module, *inputs: Any, **named: Any) -> Any:
        """Run the backbone so that its backward pass sums its gradients over the processes."""
        return backbone(*inputs, **named)

    def accumulating(self, yes: bool) -> AbstractContextManager[None]:
        """Context in which the backbone's gradients stay with each process if ``yes``."""
        del yes
        return nullcontext()

    def broadcast(self, make: Callable[[], T]) -> T:
        """Return on all processes what the first one makes; if it fails, raise its error on all."""
        return make()

    def broadcast_content(self, make: Callable[[], T]) -> T:
        """Broadcast the content of a checkpoint: tensors, numbers, strings, containers."""
        return make()

    def check_equal(self, model: nn.Module) -> None:
        """Refuse models that differ between processes."""


ONE = Ranks()
"""The one process of an ordinary run."""
