"""One forward pass in training mode, and the way back to what the heads saw."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rotograd_cli.errors import BackwardError, ShapeError
from rotograd_cli.methods.engine.attribution import HeadOutputs, gradients_of_each
from rotograd_cli.methods.engine.autograd import summed, take_gradients
from rotograd_cli.methods.heads.leaves import Leaves


class ExtraOutputs(NamedTuple):
    """What backbone and heads returned beyond features and predictions."""

    backbone: tuple[Any, ...]
    """Everything after the first item of the backbone's tuple."""
    heads: list[tuple[Any, ...]]
    """For every task, everything after the first item of its head's tuple."""


class ForwardPass:
    """What a forward pass in training mode keeps for its backward pass.

    Args:
        features: Output of the backbone, with its graph.
        extras: What else the backbone returned.
        leaves: What the heads are differentiated at; None without gradients.
    """

    def __init__(
        self, features: Tensor, extras: tuple[Any, ...] = (), leaves: Leaves | None = None
    ) -> None:
        self.features = features
        self.leaves = leaves
        self.has_extras = len(extras) > 0
        self.head_outputs = None if leaves is None else HeadOutputs(features, extras)

    def outputs(self) -> Sequence[Any]:
        """Run the heads on the leaves."""
        assert self.leaves is not None
        assert self.head_outputs is not None
        for k, y in enumerate(self.leaves.first_outputs):
            self.head_outputs.record(k, y)
        outputs = self.leaves.outputs()
        for k, output in enumerate(outputs):
            self.head_outputs.record(k, output)
        return outputs

    def was_differentiated(self) -> bool:
        """Whether losses of this pass were differentiated, but not by ``backward``."""
        return self.leaves is not None and any(z.grad is not None for z in self.leaves.tensors)

    def gradients(
        self,
        losses: Sequence[Tensor | None],
        weighed: Sequence[Tensor | None],
        *,
        separately: bool,
        keep: bool,
    ) -> Sequence[Tensor]:
        """Differentiate the losses at the leaves, which fills the gradients of the heads.

        Args:
            losses: K scalars; None for an absent task.
            weighed: The losses times their factors.
            separately: Whether losses use several heads: each gets a pass of its own.
            keep: Keep the graph.

        Returns:
            Gradients of the leaves, one per task; one in all where autograd adds them up.
        """
        assert self.leaves is not None
        if separately:
            return gradients_of_each(losses, weighed, self.leaves.tensors)
        roots = summed([loss for loss in weighed if loss is not None])
        torch.autograd.backward(roots, retain_graph=keep or self.has_extras)
        gradients = take_gradients(self.leaves.tensors)
        return gradients[0].unbind() if self.leaves.stacked else gradients


def take(run: ForwardPass | None, *, keep: bool) -> ForwardPass:
    """Take the last pass for its backward pass; unless ``keep``, its features alone stay.

    Raises:
        BackwardError: If there is nothing to differentiate.
    """
    if run is None or run.leaves is None:
        raise BackwardError(
            "`backward` needs a forward pass in training mode with gradients enabled before "
            "each call; call model.train() and model(x) outside torch.no_grad() first."
        )
    taken = copy.copy(run)
    if not keep:
        run.leaves = None
        run.head_outputs = None
    return taken


def features_of(output: Any) -> tuple[Tensor, tuple[Any, ...]]:
    """Return features and extra outputs of a backbone.

    Raises:
        ShapeError: If it returned no features.
    """
    features, extras = split_output(output)
    if not isinstance(features, Tensor):
        raise ShapeError(
            "`backbone` must return the features as one tensor, or a tuple that begins with it, "
            f"got {_described(output)}; wrap it in a module that returns that tensor."
        )
    return features, extras


def split_output(output: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split a tuple or list into its first item and the others."""
    if isinstance(output, (list, tuple)) and output:
        return output[0], tuple(output[1:])
    return output, ()


def _described(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with keys {', '.join(map(repr, output))}"
    if isinstance(output, (list, tuple)) and output:
        return f"{type(output).__name__} that begins with {type(output[0]).__name__}"
    return f"{type(output).__name__}"
