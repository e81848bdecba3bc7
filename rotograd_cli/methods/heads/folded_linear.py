"""Heads that begin with a linear layer: K first layers as one product, rotations folded in."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rotograd_cli.linalg.gradients import stacked
from rotograd_cli.methods.heads.batched import rows_of, separate
from rotograd_cli.methods.heads.layers import SplitHead, split_head
from rotograd_cli.methods.heads.leaves import Leaf, Leaves
from rotograd_cli.methods.rotation.constants import FoldedRotations
from rotograd_cli.methods.rotation.features import RotatedAxes, RotatedFeatures
from rotograd_cli.methods.rotation.holding import constant
from rotograd_cli.methods.rotation.plan import wide
from rotograd_cli.methods.rotation.rotations import Rotations
from rotograd_cli.methods.rotation.task_gradients import (
    FactoredTaskGradients,
    FoldedTaskGradients,
    TaskGradients,
)


def split_heads(
    heads: Iterable[nn.Module], features: Tensor, axes: RotatedAxes
) -> list[SplitHead] | None:
    """Split heads after their first linear layer, where folding gives the same numbers.

    That is where every head begins with a linear layer without hooks and sees exactly the axes
    that are rotated. Asked before every forward pass: hooks come and go.

    Args:
        heads: The heads.
        features: z.
        axes: Layout of the features.

    Returns:
        The parts of every head; None where one does not qualify.
    """
    if len(axes.post_shape) > 0:
        return None
    every = [split_head(head) for head in heads]
    fitting = [head for head in every if head is not None and _fits(head, features, axes)]
    return fitting if len(fitting) == len(every) else None


def _fits(head: SplitHead, features: Tensor, axes: RotatedAxes) -> bool:
    num_batch_axes = features.dim() - len(axes.rotation_shape)
    return (
        head.layer.in_features == features.shape[num_batch_axes:].numel()
        and head.layer.weight.device == features.device
        and (num_batch_axes == 1 if head.flattens else len(axes.rotation_shape) == 1)
    )


def folding_pays(heads: Sequence[SplitHead], size: int) -> bool:
    """Whether folding is cheaper than whole rotations of the given size."""
    return 2 * max(head.layer.out_features for head in heads) <= size


class FoldedLinearLeaves(Leaves):
    """One leaf for all tasks: the outputs of the heads' first layers, ``[K, batch..., o]``.

    Heads narrower than the widest are padded with rows of zeros.

    Args:
        heads: See :func:`split_heads`.
        features: z, shape ``[batch..., *rotated]``.
        leaf: Makes a leaf.
        rotated: How they are rotated.
    """

    stacked = True

    def __init__(
        self, heads: Sequence[SplitHead], features: Tensor, leaf: Leaf, rotated: RotatedFeatures
    ) -> None:
        self._heads = heads
        self._features = features.detach()
        self._batch_shape = rotated.axes.batch_shape(features.shape)
        rotations = rotated.rotations
        layers = [head.layer for head in heads]
        # X and B first: whatever else they are computed from
        sources = [rotations.free_parameters, rotations.base, *_parameters(layers)]
        self._layers = constant(rotations, "layers", sources, lambda: _fold(layers, rotations))
        self.tensors = [leaf(self._first_layers())]
        (y,) = self.tensors
        self._reached = [True] * len(heads)
        self.first_outputs = rows_of(y, self._reached) if y.requires_grad else separate(y)

    @torch.no_grad()
    def _first_layers(self) -> Tensor:
        _, weight, bias = self._layers
        K, o, d = weight.shape
        z = self._features.reshape(-1, d)
        y = nn.functional.linear(z, weight.flatten(0, 1).to(z.dtype), bias.flatten().to(z.dtype))
        return y.view(-1, K, o).transpose(0, 1).reshape(K, *self._batch_shape, o).contiguous()

    def outputs(self) -> Sequence[Any]:
        """See :class:`Leaves`."""
        pairs = zip(self._heads, self.first_outputs, strict=True)
        return [_finish(head, y) for head, y in pairs]

    def task_gradients(self, gradients: Sequence[Tensor]) -> FoldedTaskGradients:
        """See :class:`Leaves`."""
        folded, weight, _ = self._layers
        K, o, d = weight.shape
        delta = stacked(gradients).reshape(K, -1, o)
        return FoldedTaskGradients(folded, weight, delta, self._features.reshape(-1, d))

    def gradients_at_inputs(self, gradients: Sequence[Tensor]) -> FactoredTaskGradients:
        """See :class:`Leaves`: from the weights as they are, without rotations."""
        weight = wide(_stack_padded([head.layer.weight for head in self._heads]))
        K, o, _ = weight.shape
        return FactoredTaskGradients(weight, stacked(gradients).reshape(K, -1, o))

    def parameter_gradients(self, G: TaskGradients) -> list[tuple[Tensor, Tensor]]:
        """Return the first layers' parameters that are trained, with their gradients.

        A head that no loss depended on gets no gradient at all, so that no optimiser moves it.
        """
        assert isinstance(G, FoldedTaskGradients)
        result: list[tuple[Tensor, Tensor]] = []
        for k, head in enumerate(self._heads):
            layer = head.layer
            given = (layer.weight, G.weight_gradient[k]), (layer.bias, G.bias_gradient[k])
            for parameter, gradient in given if self._reached[k] else ():
                if parameter is not None and parameter.requires_grad:
                    result.append((parameter, gradient[: layer.out_features]))
        return result


def _finish(head: SplitHead, y: Tensor) -> Any:
    """Run the rest of a head after its first layer, whose outputs may be padded."""
    o = head.layer.out_features
    result: Any = y if y.shape[-1] == o else y[..., :o]
    for module in head.rest:
        result = module(result)
    return result


def _parameters(layers: Iterable[nn.Linear]) -> list[Tensor]:
    return [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]


def _fold(
    layers: Sequence[nn.Linear], rotations: Rotations
) -> tuple[FoldedRotations, Tensor, Tensor]:
    r"""Return layers that act on features before rotation.

    Returns:
        The rotations, folded into the rotated columns; the weights :math:`W'_k = [W_k^{top} R_k,
        W_k^{rest}]`, shape ``[K, o, d]``, float32 or wider; the biases, shape ``[K, o]``.
    """
    m = rotations.size
    weights = _stack_padded([layer.weight.detach() for layer in layers])
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    folded = rotations.fold(weights[..., :m])
    weight = torch.cat((folded.weight, weights[..., m:]), dim=2)
    return folded, weight, _stack_padded([_bias(layer) for layer in layers])


def _bias(layer: nn.Linear) -> Tensor:
    if layer.bias is None:
        return layer.weight.new_zeros(layer.out_features)
    return layer.bias.detach()


def _stack_padded(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors, shorter ones padded with zeros at the end of their first axis."""
    if all(len(tensor) == len(tensors[0]) for tensor in tensors):
        return torch.stack(list(tensors))
    return pad_sequence(list(tensors), batch_first=True)
