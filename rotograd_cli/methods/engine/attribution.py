"""Whose gradient is it: the heads that each loss goes through, as autograd's graph has them."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from rotograd_cli.errors import BackwardError

_FEATURES = -1
_EXTRAS_OF_BACKBONE = -2

Place = tuple[Node, int]
"""A result in autograd's graph: the operation, and which of its outputs."""


class Crossing(NamedTuple):
    """A loss that depends on another task's head."""

    loss: int
    """Task of the loss."""
    head: int
    """Task of that head."""


class HeadOutputs:
    """What the heads saw and returned in one forward pass, as places in autograd's graph.

    A walk from a loss ends at these places, so that only the few operations between predictions and
    loss are looked at, not the networks.

    Args:
        features: Output of the backbone.
        backbone_extras: What else it returned.
        leaves: What the heads see, one per task; none where the tasks share one tensor.
    """

    def __init__(
        self, features: Tensor, backbone_extras: Sequence[Any], leaves: Sequence[Tensor]
    ) -> None:
        self.owners: dict[Place, int] = {}
        if not backbone_extras:  # with these, losses may reach the backbone in many ways
            self.record(_FEATURES, features)
        self.record(_EXTRAS_OF_BACKBONE, backbone_extras)
        for k, leaf in enumerate(() if torch.compiler.is_compiling() else leaves):
            edge = get_gradient_edge(leaf)
            self.owners[edge.node, edge.output_nr] = k

    def record(self, owner: int, output: Any) -> None:
        """Note what a head returned, or an intermediate result of it.

        Args:
            owner: Task of the head.
            output: Tensor, or any nesting of lists, tuples and dictionaries.
        """
        if torch.compiler.is_compiling():
            return  # a compiled graph has no such places: each loss is assumed to use its own head
        for tensor in _tensors(output):
            if tensor.grad_fn is not None:
                self.owners.setdefault((tensor.grad_fn, tensor.output_nr), owner)

    def operations(self, owner: int) -> list[Node]:
        """Return the operations that recorded results of a head come from."""
        return list(dict.fromkeys(node for (node, _), k in self.owners.items() if k == owner))

    def ends(self, start: Iterable[tuple[Node | None, int]]) -> list[tuple[Place, int]]:
        """Return recorded places that a walk from the places ``start`` ends at, with owners."""
        result: list[tuple[Place, int]] = []
        todo = list(start)
        seen = set[object]()
        while todo:
            node, number = todo.pop()
            if node is None or node in seen or (node, number) in seen:
                continue
            owner = self.owners.get((node, number))
            if owner is None:
                seen.add(node)
                todo.extend(node.next_functions)
            else:
                seen.add((node, number))
                result.append(((node, number), owner))
        return result


class Attribution:
    """Whether each loss goes through its own head alone; heads that use each other, once."""

    def __init__(self) -> None:
        self._heads_are_known = False
        self._crossing_heads: Crossing | None = None
        self._warned = False

    def crossing(self, losses: Sequence[Tensor | None], heads: HeadOutputs) -> Crossing | None:
        """Find a loss whose gradient at another task's head is not zero.

        Where the graph has a way from a loss to another head (predictions were stacked, say), the
        numbers decide, which waits for the device.

        Args:
            losses: K scalars; None for an absent task.
            heads: What the heads returned.

        Returns:
            The first one; None if every loss depends on its own head alone.

        Raises:
            BackwardError: If a loss depends on the features in another way than through a head.
        """
        if not self._heads_are_known and heads.owners:
            self._crossing_heads = _look_at_heads(heads)
            self._heads_are_known = True
        result = self._crossing_heads
        for k, loss in enumerate(losses):
            if loss is None:
                continue
            ends = heads.ends([(loss.grad_fn, loss.output_nr)])
            if any(owner == _FEATURES for _, owner in ends):
                raise BackwardError(
                    f"`losses[{k}]` must depend on the features through heads alone, but uses the "
                    "backbone's output itself (model.rep); pass that term as "
                    "model.backward(losses, backbone_loss=TERM)."
                )
            others = [end for end in ends if end[1] not in (k, _EXTRAS_OF_BACKBONE)]
            if others and result is None:
                result = self._first_dependence(k, loss, others)
        return result

    def _first_dependence(
        self, task: int, loss: Tensor, ends: Sequence[tuple[Place, int]]
    ) -> Crossing | None:
        """Find the first place at which the gradient of a loss is not zero.

        A NaN tells nothing: zero times infinity, where another task's loss is infinite.
        """
        edges = [GradientEdge(*place) for place, _ in ends]
        try:
            gradients = torch.autograd.grad(loss, edges, retain_graph=True, allow_unused=True)
        except RuntimeError as error:  # compiled or checkpointed losses may forbid a second pass
            self._warn(task, error)
            return None
        present = [gradient for gradient in gradients if gradient is not None]
        if float(torch.nn.utils.get_total_norm(present, torch.inf)) == 0:  # one read in most cases
            return None
        for (_, owner), gradient in zip(ends, gradients, strict=True):
            if gradient is not None and bool(((gradient != 0) & ~gradient.isnan()).any()):
                return Crossing(task, owner)
        return None

    def _warn(self, task: int, error: RuntimeError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"`losses[{task}]` may depend on several heads, which cannot be found out here "
                f"({' '.join(str(error).split())[:80]}); it is taken to depend on head {task} "
                "alone: pass one_head_per_loss=True if that is so, or compute every task's loss by "
                "operations of its own.",
                stacklevel=4,
            )


def _look_at_heads(heads: HeadOutputs) -> Crossing | None:
    """Return a head that uses another head's activations, if there is one."""
    for (node, _), owner in heads.owners.items():
        for _, other in heads.ends(node.next_functions) if owner >= 0 else ():
            if other not in (owner, _FEATURES, _EXTRAS_OF_BACKBONE):
                return Crossing(owner, other)
    return None


def gradients_of_each(
    losses: Sequence[Tensor | None], weighed: Tensor, leaves: Sequence[Tensor]
) -> list[Tensor]:
    r"""Return task gradients :math:`\sum_j \partial L_k/\partial z_j`, by a pass from each loss.

    They are summed over all heads j. Parameters get the gradients of a pass from all losses.

    Args:
        losses: K scalars; None for an absent task.
        weighed: The losses times their factors, shape ``[K]``.
        leaves: The features as each head saw them: one tensor per task, or one with the tasks on
            its first axis.

    Returns:
        One gradient per task, of the features' shape.
    """
    zero = torch.zeros_like(leaves[0] if len(leaves) > 1 else leaves[0][0])
    result: list[Tensor] = []
    for loss, product in zip(losses, weighed, strict=True):
        if loss is not None:
            (factor,) = torch.autograd.grad(product, loss, retain_graph=True)
            torch.autograd.backward(loss, factor, retain_graph=True)
        views = [leaf.grad for leaf in leaves if leaf.grad is not None]
        for leaf in leaves:
            leaf.grad = None
        if len(leaves) == 1:
            views = [view for leaf_gradient in views for view in leaf_gradient.unbind(0)]
        result.append(torch.stack(views).sum(0) if views else zero)
    return result


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors(list(output.values()))
    elif isinstance(output, (list, tuple)):
        for item in output:
            yield from _tensors(item)
