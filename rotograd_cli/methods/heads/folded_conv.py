"""Heads that begin with a convolution over rotated channels: rotations folded into its weight."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rotograd_cli.methods.heads.layers import is_plain, sequence_of
from rotograd_cli.methods.heads.leaves import Leaf, Leaves
from rotograd_cli.methods.rotation.features import RotatedAxes, RotatedFeatures
from rotograd_cli.methods.rotation.task_gradients import DenseTaskGradients, TaskGradients

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def begin_with_convolutions(
    heads: Iterable[nn.Module], features: Tensor, axes: RotatedAxes
) -> bool:
    """Whether every head begins with a plain convolution over exactly the rotated channels."""
    kind = _CONVOLUTIONS.get(len(axes.post_shape))
    if kind is None or len(axes.rotation_shape) != 1:
        return False
    if features.dim() != 2 + len(axes.post_shape):
        return False
    return all(_fits(sequence_of(head), kind, features) for head in heads)


def _fits(modules: Sequence[nn.Module], kind: type[nn.Module], features: Tensor) -> bool:
    if not modules or type(modules[0]) is not kind or not is_plain(modules[0]):
        return False
    layer: Any = modules[0]
    return bool(
        layer.groups == 1
        and layer.in_channels == features.shape[1]
        and layer.weight.device == features.device
    )


class FoldedConvLeaves(Leaves):
    r"""The features themselves, one leaf per task, before heads with folded convolutions.

    A convolution sums over channels, so :math:`W * (R z) = (W R) * z`, whatever its kernel, stride
    and padding: the head gets the features as they are, with a folded weight, and the gradient at
    them needs no rotating back. The weight's own gradient is autograd's, through the folding.

    Args:
        heads: See :func:`begin_with_convolutions`.
        features: z, shape ``[N, d, *post_shape]``.
        leaf: Makes a leaf.
        rotated: How they are rotated.
    """

    def __init__(
        self, heads: nn.ModuleList, features: Tensor, leaf: Leaf, rotated: RotatedFeatures
    ) -> None:
        self.tensors = [leaf(features) for _ in heads]
        if self.tensors[0].requires_grad and self.tensors[0].is_leaf:
            _stack_gradients(self.tensors)
        self._heads = heads
        self._rotations = rotated.rotations.whole()
        self._rotated = rotated

    def outputs(self) -> Sequence[Any]:
        """See :class:`Leaves`."""
        triples = zip(self._heads, self.tensors, self._rotations.R, strict=True)
        return [_output(head, z, R) for head, z, R in triples]

    def task_gradients(self, gradients: Sequence[Tensor]) -> TaskGradients:
        """See :class:`Leaves`."""
        blocks = [self._rotated.axes.to_blocks(gradient) for gradient in gradients]
        return DenseTaskGradients(blocks, self._rotations)

    def gradients_at_inputs(self, gradients: Sequence[Tensor]) -> DenseTaskGradients:
        """See :class:`Leaves`: the gradients at the features, rotated."""
        return DenseTaskGradients(self._rotated.turned(gradients, self._rotations.R).unbind())


def _stack_gradients(leaves: Sequence[Tensor]) -> None:
    """Let the gradients of the leaves land one after the other, so that none is copied later."""
    stack = leaves[0].new_empty(len(leaves), *leaves[0].shape)
    for leaf, place in zip(leaves, stack, strict=True):
        move = functools.partial(_move_gradient, place)
        leaf.register_post_accumulate_grad_hook(move)  # type: ignore[no-untyped-call]


def _move_gradient(place: Tensor, leaf: Tensor) -> None:
    assert leaf.grad is not None
    leaf.grad = place.copy_(leaf.grad)


def _output(head: nn.Module, features: Tensor, R: Tensor) -> Any:
    """Return the output of a head for the rotated features, from features as they are."""
    layer, *rest = sequence_of(head)
    kernel = layer.weight
    assert isinstance(kernel, Tensor)
    m = R.shape[0]
    with torch.autocast(features.device.type, enabled=False):
        by_channel = kernel.movedim(1, -1)  # [o, *kernel, d]
        weight = by_channel[..., :m] @ R.to(kernel.dtype)
        weight = torch.cat((weight, by_channel[..., m:]), dim=-1).movedim(-1, 1)
    result: Any = functional_call(layer, {"weight": weight.contiguous()}, (features,))
    for module in rest:
        result = module(result)
    return result
