"""The gradient that each head sends to features that all heads share, of which autograd keeps sums.

It is caught on its way in the one backward pass that trains: the operations through which a head
reaches the features get a hook, which sees what they hand on. Nothing is computed, and the order in
which autograd adds up stays as it is.
"""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from rotograd_cli.methods.rotation.task_gradients import (
    DenseTaskGradients,
    FactoredTaskGradients,
    MeasurableGradients,
)


class Catch(Protocol):
    """What a backward pass fills."""

    def gradients(self) -> Sequence[Tensor]:
        """Return what was caught, one tensor per task, as autograd made it."""

    def task_gradients(self, gradients: Sequence[Tensor]) -> MeasurableGradients:
        """Return the task gradients, from what was caught in float32 or wider."""


class CatchAtFeatures:
    """Catches the gradients of any heads that run one after the other on the same leaf.

    Args:
        leaf: The features.
        ends: For every task, the last operations of its head.
        losses: K scalars, None for an absent task; a head that returns the features as they are has
            no operation, but its loss does.
    """

    def __init__(
        self, leaf: Tensor, ends: Sequence[Sequence[Node]], losses: Sequence[Tensor | None]
    ) -> None:
        self._leaf = leaf
        self._sums: list[Tensor | None] = [None] * len(ends)
        self.is_clear = True
        """Whether no operation belongs to several heads."""
        place = get_gradient_edge(leaf).node
        owners: dict[Node, int] = {}
        for k, (of_head, loss) in enumerate(zip(ends, losses, strict=True)):
            starts = [node for node in of_head if node is not place]
            if not starts and loss is not None and loss.grad_fn is not None:
                starts = [loss.grad_fn]
            for node in _last_operations(starts, place):
                self.is_clear &= owners.setdefault(node, k) == k
        for node, k in owners.items():
            inputs = [i for i, (other, _) in enumerate(node.next_functions) if other is place]
            node.register_hook(partial(self._add, k, inputs))

    def _add(
        self, task: int, inputs: Sequence[int], sent: Sequence[Tensor | None], _: object
    ) -> None:
        for index in inputs:
            gradient = sent[index]
            if gradient is not None:
                before = self._sums[task]
                self._sums[task] = gradient if before is None else before + gradient

    def gradients(self) -> Sequence[Tensor]:
        """See :class:`Catch`."""
        return [torch.zeros_like(self._leaf) if s is None else s for s in self._sums]

    def task_gradients(self, gradients: Sequence[Tensor]) -> DenseTaskGradients:
        """See :class:`Catch`."""
        return DenseTaskGradients(gradients)


class CatchAtOutputs:
    """Catches the gradients at the outputs of linear heads that are one operation.

    Args:
        operation: Their last one, whose K results have the shape ``[N, o]``.
        weight: The heads' weights, shape ``[K, o, d]``.
    """

    def __init__(self, operation: Node, weight: Tensor) -> None:
        self._weight = weight
        self._caught: Sequence[Tensor | None] = ()
        operation.register_prehook(self._take)

    def _take(self, gradients: Sequence[Tensor | None]) -> None:
        self._caught = gradients

    def gradients(self) -> Sequence[Tensor]:
        """See :class:`Catch`."""
        like = next(gradient for gradient in self._caught if gradient is not None)
        zero = torch.zeros_like(like)
        return [zero if gradient is None else gradient for gradient in self._caught]

    def task_gradients(self, gradients: Sequence[Tensor]) -> FactoredTaskGradients:
        """See :class:`Catch`."""
        delta = torch.stack(list(gradients))
        weight = self._weight.to(torch.promote_types(self._weight.dtype, torch.float32))
        return FactoredTaskGradients(weight, delta)


def _last_operations(starts: Sequence[Node], place: Node) -> list[Node]:
    """Return the operations on the ways from ``starts`` that hand gradients on to ``place``."""
    result: list[Node] = []
    todo = list(starts)
    seen = set(todo)
    while todo:
        node = todo.pop()
        others = [other for other, _ in node.next_functions]
        if place in others:
            result.append(node)
        new = [other for other in others if other is not None and other not in seen]
        seen.update(new)
        todo.extend(new)
    return result
