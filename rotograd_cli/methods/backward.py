"""Parts of a backward pass: what goes into autograd, and what is taken out of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.errors import BackwardError


class GradientCarrier(torch.autograd.Function):
    """Carries gradients to tensors, and lets go of them, so that autograd need not copy them."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *tensors: Tensor) -> Tensor:
        """A root for the backward pass; the tensors are not looked at."""
        ctx.gradients = gradients
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, one: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, once."""
        gradients = tuple(ctx.gradients)
        ctx.gradients.clear()
        return None, *gradients


def summed(losses: Sequence[Tensor]) -> Sequence[Tensor]:
    """Their sum, where they can be added: one root of the backward pass instead of K.

    Args:
        losses: Scalars, at least one.

    Returns:
        The sum alone, or the losses where devices or types differ.
    """
    first = losses[0]
    if any(loss.dtype != first.dtype or loss.device != first.device for loss in losses):
        return losses
    return [torch.stack([loss.reshape(()) for loss in losses]).sum()]


def multiply_losses(losses: Sequence[Tensor | None], factors: Tensor) -> Sequence[Tensor | None]:
    """Losses times their factors, in one operation.

    Args:
        losses: K scalars; None for an absent task.
        factors: Shape ``[K]``.

    Returns:
        The products; None for an absent task.
    """
    present = [k for k, loss in enumerate(losses) if loss is not None]
    known = torch.stack([loss.reshape(()) for loss in losses if loss is not None])
    products = iter((known * torch.stack([factors[k] for k in present])).unbind())
    return [None if loss is None else next(products) for loss in losses]


def take_gradients(leaves: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the leaves, zero where no loss reached one; they are taken off the leaves.

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
