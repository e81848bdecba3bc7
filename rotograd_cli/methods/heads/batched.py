"""Equal linear heads as one operation: forty heads do not cost forty times an operation's start."""

import functools
from collections.abc import Hashable, Iterable, Sequence
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
        split = []
        for head in heads:
            parts = split_head(head)
            if parts is None or parts.rest:
                return None
            split.append(parts)
        if len(split) < 2:
            return None
        first = split[0]
        if features.dim() != 2 and not (first.flattens and features.dim() > 2):
            return None
        if features[0].numel() != first.layer.in_features:
            return None
        kinds = {_kind(head) for head in split}
        on_device = first.layer.weight.device == features.device
        return cls(split) if len(kinds) == 1 and on_device else None

    def weight(self) -> Tensor:
        """Return the weights of all heads as a constant, shape ``[K, o, d]``."""
        return torch.stack([layer.weight.detach() for layer in self._layers])

    def outputs(self, features: Tensor, num_task_axes: int) -> Sequence[Tensor]:
        """Return the outputs of all heads.

        Args:
            features: Shape ``[N, ...]``, or what every head sees, shape ``[K, N, ...]``.
            num_task_axes: 0 or 1, which of the two.

        Returns:
            K tensors of shape ``[N, o]``, not views: the caller may write into them.
        """
        reached = [True] * len(self._layers)
        weight: Tensor = _Stack.apply(reached, *[layer.weight for layer in self._layers])
        biases = [layer.bias for layer in self._layers if layer.bias is not None]
        bias: Tensor | None = _Stack.apply(reached, *biases) if biases else None
        z = features.flatten(1 + num_task_axes)
        if num_task_axes == 0:
            flat_bias = None if bias is None else bias.flatten()
            y = nn.functional.linear(z, weight.flatten(0, 1), flat_bias)  # [N, K o]
            y = y.view(len(z), len(weight), -1).transpose(0, 1).contiguous()
        else:
            if features.requires_grad:
                clear = functools.partial(_zero_unreached, reached)
                features.register_hook(clear)  # type: ignore[no-untyped-call]
            y = z @ weight.mT
            y = y if bias is None else y + bias.unsqueeze(1).to(y.dtype)
        return rows_of(y, reached)


def _zero_unreached(reached: Sequence[bool], gradient: Tensor) -> Tensor:
    """Clear what heads that no loss depended on left at the features: 0 times a NaN weight."""
    if all(reached):
        return gradient
    rows = zip(gradient, reached, strict=True)
    return torch.stack([row if is_reached else torch.zeros_like(row) for row, is_reached in rows])


def _kind(head: SplitHead) -> Hashable:
    """What must be equal for heads to be batched."""
    W = head.layer.weight
    return W.shape, W.dtype, W.device, head.layer.bias is None, head.flattens


def rows_of(stacked: Tensor, reached: list[bool]) -> Sequence[Tensor]:
    """Split a tensor into K that share its memory, but are no views of it for autograd.

    So each may be written into, and their gradients come back in one piece.

    Args:
        stacked: Shape ``[K, ...]``, contiguous; its values are not used any more.
        reached: Set by a backward pass: which of the K a loss depended on.

    Returns:
        Its K rows.
    """
    result: Sequence[Tensor] = _Rows.apply(stacked, reached)
    return result


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stacked: Tensor, reached: list[bool]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.reached = reached
        return separate(stacked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        ctx.reached[:] = [gradient is not None for gradient in gradients]
        like = next((gradient for gradient in gradients if gradient is not None), None)
        if like is None:
            return None, None
        zero = like if all(ctx.reached) else torch.zeros_like(like)
        return torch.stack([zero if g is None else g for g in gradients]), None


class _Stack(torch.autograd.Function):
    """Parameters of K heads as one tensor; a head that no loss depends on gets no gradient."""

    @staticmethod
    def forward(ctx: Any, reached: list[bool], *parameters: Tensor) -> Tensor:
        ctx.reached = reached
        return torch.stack(parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, stacked: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(stacked.unbind(), ctx.reached, strict=True)
        return None, *(gradient if reached else None for gradient, reached in pairs)


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
