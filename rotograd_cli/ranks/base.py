"""What a method asks of the processes that train one model together; here there is one of them.

Every process ("rank") has a part of each batch, and the parts of a task's loss add up to the
batch's loss. Whatever a method computes from single examples stays with the rank that has them;
whatever is a sum over the examples of the batch (losses, squared norms, inner products, gradients
of parameters) goes through :meth:`Ranks.sum`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


@dataclass
class Traffic:
    """Collective operations of this process so far."""

    calls: int = 0
    """Operations."""
    num_bytes: int = 0
    """Size of the tensors that they reduced or broadcast."""

    def count(self, tensor: Tensor) -> None:
        """Adds one operation on ``tensor``."""
        self.calls += 1
        self.num_bytes += tensor.numel() * tensor.element_size()


class Ranks:
    """One process, which has the whole batch: every sum is that of its own examples."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    signal: int = 0
    """Signal that asked this process to stop; told to the others at the next step."""
    signal_of_all: int = 0
    """Signal that asked any process to stop, the same number on all of them."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """This process's part of the rows of a batch; parts differ by one row at most."""
        return rows

    def begin_step(self, present: Sequence[Sequence[bool]], num_examples: int) -> list[list[bool]]:
        """Tells what this process has of an optimiser step.

        Args:
            present: For every micro-batch, the tasks that have a target here.
            num_examples: Examples of a micro-batch here.

        Returns:
            For every micro-batch, the tasks that have a target on any process.
        """
        del num_examples
        return [list(tasks) for tasks in present]

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, the same bits on all of them; the argument is left alone."""
        return tensor

    def norms(self, norms: Tensor) -> Tensor:
        """Norms over the whole batch, from those over this process's examples."""
        return norms

    def num_rows(self, rows: int) -> int:
        """Length of the first axis of features in the whole batch, from its length here."""
        return rows

    def draw(self, fill: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        """Random numbers for this process's rows, drawn for the whole batch.

        All generators stay in step that way, and the numbers are those that one process draws.

        Args:
            fill: Fills a tensor in place with random numbers.
            like: Gives shape, type and device; the first axis is the examples'.

        Returns:
            Shape of ``like``.
        """
        return fill(torch.empty_like(like, memory_format=torch.contiguous_format))

    def share(self, num: int) -> slice:
        """The part of ``num`` independent computations that this process makes for all."""
        return slice(0, num)

    def gather(self, stack: Tensor) -> None:
        """Fills a stack of results with what the other processes have computed.

        Args:
            stack: Results on the first axis, those of :meth:`share` filled in; changed in place.
        """

    def sum_share(self, stack: Tensor) -> None:
        """Sums over the processes what this one goes on with.

        Args:
            stack: Items on the first axis; changed in place: those of :meth:`share` become the
                sums, the others zero.
        """

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces gradients by their sums over the processes, in one operation per dtype."""

    def attach(self, model: nn.Module, input_shape: Sequence[int]) -> None:
        """Prepares a model whose steps the processes will share.

        Args:
            model: Has a ``backbone``; on its device.
            input_shape: Shape of one example's input.
        """

    def run(self, backbone: nn.Module, x: Any) -> Any:
        """Forward pass of the backbone whose backward pass sums its gradients."""
        return backbone(x)

    def accumulating(self, yes: bool) -> AbstractContextManager[None]:
        """Inside, the backbone's gradients stay with each process if ``yes``."""
        del yes
        return nullcontext()

    def same(self, make: Callable[[], T]) -> T:
        """What the first process makes, on all of them; an error of its is raised on all."""
        return make()

    def same_content(self, make: Callable[[], T]) -> T:
        """As :meth:`same`, for what a checkpoint holds: tensors, numbers, strings, containers."""
        return make()

    def check_same(self, model: nn.Module) -> None:
        """Refuses to go on with models that differ between processes."""

    def own(self, parts: Sequence[T], group: int) -> Iterator[tuple[int, T]]:
        """Batches that this process evaluates, with their positions.

        Args:
            parts: All batches.
            group: Consecutive batches that stay together.

        Yields:
            Position and batch.
        """
        yield from enumerate(parts)


ONE = Ranks()
"""The one process of an ordinary run."""
