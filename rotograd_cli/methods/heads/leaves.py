"""What the heads see, and are differentiated at."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from rotograd_cli.methods.heads.batched import BatchedHeads
from rotograd_cli.methods.rotation.features import RotatedFeatures
from rotograd_cli.methods.rotation.task_gradients import DenseTaskGradients, TaskGradients
from rotograd_cli.methods.rotation.whole import WholeRotations

Leaf = Callable[[Tensor], Tensor]
"""Makes a leaf of autograd's graph in training; leaves a tensor as it is otherwise."""


def new_leaf(tensor: Tensor) -> Tensor:
    """A leaf over the same memory."""
    return tensor.detach().requires_grad_()


class Leaves(ABC):
    """Tensors that the losses are differentiated at, for one pass."""

    tensors: Sequence[Tensor]
    """The leaves."""

    one_per_task: bool = False
    """Whether leaf k is what head k alone sees."""

    first_outputs: Sequence[Tensor] = ()
    """Intermediate results of the heads behind a common leaf, by task; they count as the heads'."""

    @abstractmethod
    def outputs(self) -> Sequence[Any]:
        """Run the heads; called once."""

    @abstractmethod
    def by_task(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gradients of the leaves, one per task."""

    @abstractmethod
    def task_gradients(self, gradients: Sequence[Tensor]) -> TaskGradients:
        """Task gradients at the features, from those by task, in float32 or wider."""

    def parameter_gradients(self, G: TaskGradients) -> list[tuple[Tensor, Tensor]]:
        """Parameters of heads behind the leaves, with their gradients; none by default."""
        del G
        return []


class SummedLeaves(Leaves):
    """The features themselves, at which autograd adds up the task gradients.

    Args:
        heads: The heads.
        features: z, shape ``[batch..., *feature_shape]``.
        leaf: Makes a leaf.
        batched: The heads as one operation, where they fit.
    """

    def __init__(
        self, heads: nn.ModuleList, features: Tensor, leaf: Leaf, batched: BatchedHeads | None
    ) -> None:
        self.tensors = [leaf(features)]
        self._heads = heads
        self._batched = batched

    def outputs(self) -> Sequence[Any]:
        """See :class:`Leaves`."""
        (z,) = self.tensors
        if self._batched is not None:
            return self._batched.outputs(z, num_task_axes=0)
        return [head_output(head, z) for head in self._heads]

    def by_task(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """The sum alone."""
        return gradients

    def task_gradients(self, gradients: Sequence[Tensor]) -> TaskGradients:
        """The sum alone."""
        return DenseTaskGradients(gradients)


class SeparateLeaves(Leaves):
    """One view of the features per task, for any heads.

    Args:
        heads: The heads.
        views: What the heads see, one tensor each or one with the tasks on the first axis.
        leaf: Makes a leaf.
        batched: The heads as one operation on one tensor, where they fit.
        rotated: How the views are rotated; None where they are the features.
        rotations: The rotations.
    """

    def __init__(
        self,
        heads: nn.ModuleList,
        views: Tensor,
        leaf: Leaf,
        batched: BatchedHeads | None = None,
        rotated: RotatedFeatures | None = None,
        rotations: WholeRotations | None = None,
    ) -> None:
        self.one_per_task = batched is None
        self.tensors = [leaf(view) for view in (views.unbind() if batched is None else [views])]
        self._heads = heads
        self._batched = batched
        self._rotated = rotated
        self._rotations = rotations

    def outputs(self) -> Sequence[Any]:
        """See :class:`Leaves`."""
        if self._batched is not None:
            return self._batched.outputs(self.tensors[0], num_task_axes=1)
        return [head_output(head, z) for head, z in zip(self._heads, self.tensors, strict=True)]

    def by_task(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """See :class:`Leaves`."""
        return gradients if self.one_per_task else gradients[0].unbind()

    def task_gradients(self, gradients: Sequence[Tensor]) -> TaskGradients:
        """See :class:`Leaves`."""
        if self._rotated is None or self._rotations is None:
            return DenseTaskGradients(gradients)
        G = self._rotated.back(gradients, self._rotations.R)
        return DenseTaskGradients(G.unbind(), self._rotations)


def head_output(head: nn.Module, features: Tensor) -> Any:
    """Output of a head, which gets a copy where it may write into its input."""
    return head(features.clone() if writes_into_input(head) else features)


def writes_into_input(head: nn.Module) -> bool:
    """Whether a head may write into its input, which all heads share."""
    return any(getattr(module, "inplace", False) for module in head.modules())
