"""What the heads see, and are differentiated at."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from rotograd_cli.methods.heads.batched import BatchedHeads
from rotograd_cli.methods.rotation.task_gradients import (
    DenseTaskGradients,
    MeasurableGradients,
    TaskGradients,
)

Leaf = Callable[[Tensor], Tensor]
"""Makes a leaf of autograd's graph in training; leaves a tensor as it is otherwise."""


def new_leaf(tensor: Tensor) -> Tensor:
    """Return a leaf over the same memory."""
    return tensor.detach().requires_grad_()


class Leaves(ABC):
    """Tensors that the losses are differentiated at, for one pass."""

    tensors: Sequence[Tensor]
    """The leaves."""

    stacked: bool = False
    """Whether the one leaf has the tasks on its first axis."""

    first_outputs: Sequence[Tensor] = ()
    """Intermediate results of the heads behind a common leaf, by task; they count as the heads'."""

    @abstractmethod
    def outputs(self) -> Sequence[Any]:
        """Run the heads; called once."""

    @abstractmethod
    def task_gradients(self, gradients: Sequence[Tensor]) -> TaskGradients:
        """Return task gradients at the features, from those at the leaves, in float32 or wider.

        Args:
            gradients: One per task.

        Returns:
            The gradients, before rotation.
        """

    def gradients_at_inputs(self, gradients: Sequence[Tensor]) -> MeasurableGradients:
        """Return task gradients at what the heads were given, after the rotations.

        Args:
            gradients: See :meth:`task_gradients`, which is called before.
        """
        return DenseTaskGradients(gradients)

    def weight_of_all(self) -> Tensor | None:
        """Return the weights ``[K, o, d]`` of heads that see one leaf in one linear operation."""
        return None

    def parameter_gradients(self, G: TaskGradients) -> list[tuple[Tensor, Tensor]]:
        """Return parameters of heads behind the leaves, with their gradients; none by default."""
        del G
        return []


class PlainLeaves(Leaves):
    """The features as every head sees them, for any heads.

    Args:
        heads: The heads.
        tensors: One leaf per head; one for all that autograd adds up the gradients at; or, for
            batched heads, one with the tasks on its first axis.
        batched: The heads as one operation, where they fit.
        stacked: See :class:`Leaves`.
        back: Takes gradients at the views to task gradients at the features.
    """

    def __init__(
        self,
        heads: nn.ModuleList,
        tensors: Sequence[Tensor],
        batched: BatchedHeads | None = None,
        *,
        stacked: bool = False,
        back: Callable[[Sequence[Tensor]], TaskGradients] = DenseTaskGradients,
    ) -> None:
        self.tensors = tensors
        self.stacked = stacked
        self._heads = heads
        self._batched = batched
        self._back = back

    def outputs(self) -> Sequence[Any]:
        """See :class:`Leaves`."""
        if self._batched is not None:
            return self._batched.outputs(self.tensors[0], num_task_axes=int(self.stacked))
        views = list(self.tensors) * (len(self._heads) // len(self.tensors))
        return [head_output(head, z) for head, z in zip(self._heads, views, strict=True)]

    def weight_of_all(self) -> Tensor | None:
        """See :class:`Leaves`."""
        if self._batched is None or self.stacked:
            return None
        return self._batched.weight()

    def task_gradients(self, gradients: Sequence[Tensor]) -> TaskGradients:
        """See :class:`Leaves`."""
        return self._back(gradients)


def head_output(head: nn.Module, features: Tensor) -> Any:
    """Return the output of a head, which gets a copy where it may write into its input."""
    return head(features.clone() if writes_into_input(head) else features)


def writes_into_input(head: nn.Module) -> bool:
    """Whether a head may write into its input, which all heads share."""
    # past nn.Module.__getattr__, which takes most of the time of a look
    modules = head.modules()
    return any(getattr(type(m), "inplace", False) or vars(m).get("inplace") for m in modules)
