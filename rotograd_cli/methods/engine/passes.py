"""One forward pass in training mode, and the way back to what the heads saw and the backbone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rotograd_cli.errors import BackwardError, ShapeError
from rotograd_cli.methods.engine.attribution import HeadOutputs, gradients_of_each
from rotograd_cli.methods.engine.catch import Catch, CatchAtFeatures, CatchAtOutputs
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
        leaves: What the heads are differentiated at.
        extras: What else the backbone returned.
    """

    def __init__(self, features: Tensor, leaves: Leaves, extras: tuple[Any, ...] = ()) -> None:
        self.features = features
        self.leaves = leaves
        self.has_extras = len(extras) > 0
        by_task = () if leaves.stacked else leaves.tensors
        self.head_outputs = HeadOutputs(features, extras, by_task)
        self.caught: Catch | None = None
        """Gradients that the heads send to features that they share; see
        :meth:`catch_gradients`."""

    def outputs(self) -> Sequence[Any]:
        """Run the heads on the leaves."""
        for k, y in enumerate(self.leaves.first_outputs):
            self.head_outputs.record(k, y)
        outputs = self.leaves.outputs()
        for k, output in enumerate(outputs):
            self.head_outputs.record(k, output)
        return outputs

    def catch_gradients(self, losses: Sequence[Tensor | None]) -> None:
        """Have the next backward pass keep what each head sends to the features.

        Nothing is caught where autograd's graph does not tell the heads apart.

        Args:
            losses: K scalars, each of its own head alone; None for an absent task.
        """
        ends = [self.head_outputs.operations(k) for k in range(len(losses))]
        weight = self.leaves.weight_of_all()
        if weight is not None:
            self.caught = CatchAtOutputs(ends[-1][0], weight)
            return
        (leaf,) = self.leaves.tensors
        catch = CatchAtFeatures(leaf, ends, losses)
        self.caught = catch if catch.is_clear else None

    def was_differentiated(self) -> bool:
        """Whether losses of this pass were differentiated, but not by ``backward``."""
        return any(z.grad is not None for z in self.leaves.tensors)

    def gradients(
        self,
        losses: Sequence[Tensor | None],
        weighed: Tensor,
        *,
        separately: bool,
        keep: bool,
    ) -> list[Tensor]:
        """Differentiate the losses at the leaves, which fills the gradients of the heads.

        Args:
            losses: K scalars; None for an absent task.
            weighed: The losses times their factors, shape ``[K]``.
            separately: Whether losses use several heads: each gets a pass of its own.
            keep: Keep the graph.

        Returns:
            Gradients of the leaves, one per task; one in all where autograd adds them up.
        """
        if separately:
            return gradients_of_each(losses, weighed, self.leaves.tensors)
        torch.autograd.backward(weighed.sum(), retain_graph=keep or self.has_extras)
        gradients = take_gradients(self.leaves.tensors)
        return list(gradients[0].unbind()) if self.leaves.stacked else gradients


def features_of(output: Any) -> tuple[Tensor, tuple[Any, ...]]:
    """Return features and extra outputs of a backbone.

    Raises:
        ShapeError: If it returned no features.
    """
    features, extras = split_output(output)
    if not isinstance(features, Tensor):
        raise ShapeError(
            "`backbone` must return the features as one tensor, or a tuple that begins with it, "
            f"got {type(features).__name__}; wrap it in a module that returns that tensor."
        )
    return features, extras


def split_output(output: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split a tuple or list into its first item and the others."""
    if isinstance(output, (list, tuple)) and output:
        return output[0], tuple(output[1:])
    return output, ()


class _Carrier(torch.autograd.Function):
    """Carries gradients to tensors, and lets go of them, so that autograd need not copy them."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *tensors: Tensor) -> Tensor:
        """Return a root for the backward pass; the tensors are not looked at."""
        ctx.gradients = gradients
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, one: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, once."""
        gradients = tuple(ctx.gradients)
        ctx.gradients.clear()
        return None, *gradients


def carry(
    known: list[tuple[Tensor, Tensor]],
    features: Tensor,
    shared: Tensor | None,
    backbone_loss: Tensor | None,
    *,
    retain_graph: bool,
) -> None:
    """Make one pass through the backbone, and into parameters whose gradients are known.

    Hooks of these parameters are called as in any backward pass.

    Args:
        known: Parameters and their gradients; emptied.
        features: Output of the backbone.
        shared: Its gradient; None where the parameters have theirs.
        backbone_loss: Scalar loss of the backbone alone.
        retain_graph: Keep the graph.

    Raises:
        BackwardError: If another pass went through the backbone before.
    """
    roots: list[Tensor] = []
    gradients: list[Tensor | None] = []
    if known:
        given = [gradient.to(tensor.dtype) for tensor, gradient in known]
        roots.append(_Carrier.apply(given, *[tensor for tensor, _ in known]))
        gradients.append(None)
        known.clear()
    is_trained = features.requires_grad  # False for a frozen backbone: heads and rotations alone
    if shared is not None and is_trained:
        roots.append(features)
        gradients.append(shared.to(features.dtype))
    if backbone_loss is not None and backbone_loss.requires_grad:
        roots.append(backbone_loss)
        gradients.append(None)
    if not roots:
        return
    with first_through_backbone():
        torch.autograd.backward(roots, gradients, retain_graph=retain_graph)


@contextmanager
def first_through_backbone() -> Iterator[None]:
    """Say in one line why autograd has no graph of the backbone any more.

    Raises:
        BackwardError: If another pass went through the backbone before.
    """
    try:
        yield
    except RuntimeError as error:
        if "a second time" not in str(error):
            raise
        raise BackwardError(
            "`backward` must be the first to go back through the backbone, but a task loss, or "
            "a backward pass of your own, did so before: it uses the backbone's output itself "
            "(model.rep); pass that term as model.backward(losses, backbone_loss=TERM)."
        ) from error


def take_gradients(leaves: Sequence[Tensor]) -> list[Tensor]:
    """Take the gradients off the leaves, zero where no loss reached one.

    Args:
        leaves: What the losses were differentiated at.

    Returns:
        One gradient per leaf.

    Raises:
        BackwardError: If no loss reached any leaf.
    """
    gradients = [leaf.grad for leaf in leaves]
    if all(gradient is None for gradient in gradients):
        raise BackwardError(
            "No task loss depends on the features: every head ignores its input, or was given "
            "something else; compute the losses from the predictions of the last forward pass in "
            "training mode (model.train())."
        )
    for leaf in leaves:
        leaf.grad = None
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ]
