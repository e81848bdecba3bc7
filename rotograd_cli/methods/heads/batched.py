"""Equal linear heads as one operation: forty heads do not cost forty times an operation's start."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rotograd_cli.methods.heads.layers import SplitHead, split_head


class BatchedHeads:
    """K heads that are linear layers of one size, computed together.

    Args:
        heads: Linear layers of one size, each maybe flattened first.
    """

    def __init__(self, heads: Sequence[SplitHead]) -> None:
        self._layers = [head.layer for head in heads]

    @classmethod
    def of(cls, heads: Iterable[nn.Module], features: Tensor) -> "BatchedHeads | None":
        """Batch heads that are plain linear layers of one size and take the features as rows.

        Asked in every forward pass: hooks come and go.

        Args:
            heads: The K heads; a single one is left alone.
            features: Shape ``[N, ...]``.

        Returns:
            The heads together; None for others.
        """
        every = [split_head(head) for head in heads]
        split = [head for head in every if head is not None and not head.rest]
        if len(split) < max(2, len(every)):
            return None
        first = split[0]
        if features.dim() != 2 and not (first.flattens and features.dim() > 2):
            return None
        fits = features[0].numel() == first.layer.in_features and all(
            _alike(head, first) and head.layer.weight.device == features.device for head in split
        )
        return cls(split) if fits else None

    def outputs(self, features: Tensor, num_task_axes: int) -> Sequence[Tensor]:
        """Return the outputs of all heads.

        Args:
            features: Shape ``[N, ...]``, or what every head sees, shape ``[K, N, ...]``.
            num_task_axes: 0 or 1, which of the two.

        Returns:
            K tensors of shape ``[N, o]``, not views: the caller may write into them.
        """
        weights = [layer.weight for layer in self._layers]
        biases = [layer.bias for layer in self._layers if layer.bias is not None]
        z = features.flatten(1 + num_task_axes)
        result: Sequence[Tensor] = _BatchedLinear.apply(z, len(weights), *weights, *biases)
        return result


def _alike(head: SplitHead, first: SplitHead) -> bool:
    layer, other = head.layer, first.layer
    return (
        layer.weight.shape == other.weight.shape
        and layer.weight.dtype == other.weight.dtype
        and (layer.bias is None) == (other.bias is None)
        and head.flattens == first.flattens
    )


def rows_of(stacked: Tensor) -> Sequence[Tensor]:
    """Split a tensor into K that share its memory, but are no views of it for autograd.

    So each may be written into, and their gradients come back in one piece. After the backward
    pass, ``grad_fn.reached`` says which of them a loss depended on.

    Args:
        stacked: Shape ``[K, ...]``, contiguous; its values are not used any more.

    Returns:
        Its K rows.
    """
    result: Sequence[Tensor] = _Rows.apply(stacked)
    return result


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stacked: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.reached = [True] * len(stacked)
        return separate(stacked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor | None:
        ctx.reached = [gradient is not None for gradient in gradients]
        return _stack_present(gradients)


class _BatchedLinear(torch.autograd.Function):
    """K linear layers; a layer that no loss depends on gets no gradient at all."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, num: int, *parameters: Tensor) -> tuple[Tensor, ...]:
        weight = torch.stack(parameters[:num])  # [K, o, d]
        bias = torch.stack(parameters[num:]) if len(parameters) > num else None
        if z.dim() == 2:
            flat = None if bias is None else bias.flatten()
            y = nn.functional.linear(z, weight.flatten(0, 1), flat)  # [N, K o]
            y = y.view(len(z), num, -1).transpose(0, 1).contiguous()
        else:
            y = z @ weight.mT
            y = y if bias is None else y + bias.unsqueeze(1).to(y.dtype)
        ctx.save_for_backward(z, weight)
        ctx.set_materialize_grads(False)
        ctx.has_bias = bias is not None
        return separate(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        z, weight = ctx.saved_tensors
        num = len(gradients)
        needs = ctx.needs_input_grad
        delta = _stack_present(gradients)  # [K, N, o]
        if delta is None:
            return (None,) * len(needs)
        by_features: Tensor | None = None
        flat = delta.transpose(0, 1).flatten(1) if z.dim() == 2 else delta
        if needs[0] and z.dim() == 2:
            by_features = (flat @ weight.flatten(0, 1).to(delta.dtype)).to(z.dtype)
        elif needs[0]:
            by_features = (delta @ weight.to(delta.dtype)).to(z.dtype)
        by_weight = (flat.mT @ z.to(delta.dtype)).view_as(weight).to(weight.dtype)
        by_parameter = list(by_weight.unbind())
        if ctx.has_bias:
            by_parameter += delta.sum(1).to(weight.dtype).unbind()
        return (
            by_features,
            None,
            *(
                gradient if needs[2 + i] and gradients[i % num] is not None else None
                for i, gradient in enumerate(by_parameter)
            ),
        )


def separate(stacked: Tensor) -> tuple[Tensor, ...]:
    """Split a tensor into tensors of their own over the same memory.

    Args:
        stacked: Shape ``[K, ...]``.

    Returns:
        K tensors.
    """
    storage, size, stride = stacked.untyped_storage(), stacked.shape[1:], stacked.stride()
    offsets = (stacked.storage_offset() + k * stride[0] for k in range(len(stacked)))
    return tuple(stacked.new_empty(0).set_(storage, at, size, stride[1:]) for at in offsets)


def _stack_present(gradients: Sequence[Tensor | None]) -> Tensor | None:
    """Stack gradients, zero where there is none; None if there is none at all."""
    like = next((gradient for gradient in gradients if gradient is not None), None)
    if like is None:
        return None
    zero = torch.zeros_like(like) if any(gradient is None for gradient in gradients) else like
    return torch.stack([zero if gradient is None else gradient for gradient in gradients])
