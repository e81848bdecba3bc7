"""Heads that begin with a linear layer: K first layers as one product, rotations folded in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rotograd_cli.methods.features import RotatedAxes
from rotograd_cli.methods.linear_layers import SplitHead, split_head
from rotograd_cli.methods.rotations import FoldedRotations, Rotations
from rotograd_cli.methods.task_gradients import FoldedTaskGradients


@dataclass(frozen=True)
class FoldedLayers:
    """The first layers of all heads, acting on features before rotation."""

    rotations: FoldedRotations
    """Folding of the rotated columns."""
    weight: Tensor
    r""":math:`W'_k = [W_k^{top} R_k, W_k^{rest}]`, shape ``[K, o, d]``, float32 or wider."""
    bias: Tensor | None
    """Shape ``[K, o]``; None where no head has one."""


class LinearHeads:
    """A view of K heads as first linear layers, computed together, and the rest of each head.

    Heads narrower than the widest are padded with rows of zeros. The heads themselves stay the
    ordinary modules that the method owns; this class only reads them.

    Args:
        heads: The heads; see :meth:`fits`.
        rotations: The rotations.
        axes: Layout of the features.
    """

    def __init__(self, heads: nn.ModuleList, rotations: Rotations, axes: RotatedAxes) -> None:
        self.heads, self.rotations, self.axes = heads, rotations, axes
        self._split: list[SplitHead] = []
        self._cache: tuple[object, FoldedLayers] | None = None

    def fits(self, features: Tensor) -> bool:
        """Whether heads and features are such that folding gives the same numbers.

        True where every head begins with a linear layer without hooks and sees exactly the axes
        that are rotated. Asked before every forward pass: hooks come and go.
        """
        num_batch_axes = features.dim() - len(self.axes.rotation_shape)
        num_features = features.shape[num_batch_axes:].numel()
        split = [split_head(head) for head in self.heads]
        self._split = [head for head in split if head is not None]
        if len(self.axes.post_shape) > 0 or len(self._split) < len(split):
            return False
        return all(
            head.layer.in_features == num_features
            and head.layer.weight.device == features.device
            and (num_batch_axes == 1 if head.flattens else len(self.axes.rotation_shape) == 1)
            for head in self._split
        )

    @property
    def pays(self) -> bool:
        """Whether folding is cheaper than whole rotations, for heads that fit."""
        return 2 * max(head.layer.out_features for head in self._split) <= self.rotations.size

    def fold(self) -> FoldedLayers:
        """First layers with the rotations folded in; kept until a parameter changes."""
        layers = [head.layer for head in self._split]
        parameters = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
        key = (self.rotations.version(), [(id(p), p.data_ptr(), p._version) for p in parameters])
        if self._cache is None or self._cache[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                self._cache = (key, self._fold(layers))
        return self._cache[1]

    def clear_cache(self) -> None:
        """Forgets the folded layers."""
        self._cache = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}

    def outputs(self, features: Tensor) -> Tensor:
        """First layers' outputs, padding included, without gradient, ``[K, batch..., o]``."""
        with torch.no_grad():
            folded = self.fold()
            K, o, d = folded.weight.shape
            batch = self.axes.batch_shape(features.shape)
            z = features.reshape(-1, d)
            weight = folded.weight.flatten(0, 1).to(z.dtype)
            bias = None if folded.bias is None else folded.bias.flatten().to(z.dtype)
            y = nn.functional.linear(z, weight, bias)
            return y.view(-1, K, o).transpose(0, 1).reshape(K, *batch, o).contiguous()

    def finish(self, task: int, y: Tensor) -> Any:
        """The rest of a head.

        Args:
            task: Which head.
            y: Output of its first layer, padding included, shape ``[batch..., o]``. The rest of the
                head and the caller may write into it.

        Returns:
            What the head returns.
        """
        head = self._split[task]
        result: Any = (
            y if y.shape[-1] == head.layer.out_features else y[..., : head.layer.out_features]
        )
        for module in head.rest:
            result = module(result)
        return result

    def gradients(self, delta: Tensor, features: Tensor) -> FoldedTaskGradients:
        """Task gradients, from those at the first layers' outputs.

        Args:
            delta: Shape ``[K, batch..., o]``.
            features: z, shape ``[batch..., *rotated]``.

        Returns:
            Their factors.
        """
        folded = self.fold()
        K, o, d = folded.weight.shape
        return FoldedTaskGradients(
            self.rotations,
            folded.rotations,
            folded.weight,
            delta.reshape(K, -1, o),
            features.reshape(-1, d),
        )

    def parameter_gradients(
        self, gradients: FoldedTaskGradients, reached: Sequence[bool]
    ) -> list[tuple[Tensor, Tensor]]:
        """First layers' parameters that are trained, with their gradients.

        Args:
            gradients: The task gradients, after ``rotation_gradient``.
            reached: Heads that a loss depends on; the others' parameters get no gradient at all,
                so that no optimiser moves them.

        Returns:
            Parameters and gradients.
        """
        result: list[tuple[Tensor, Tensor]] = []
        for head, weight, bias, has_gradient in zip(
            self._split, gradients.weight_gradient, gradients.bias_gradient, reached, strict=True
        ):
            if not has_gradient:
                continue
            layer, o = head.layer, head.layer.out_features
            if layer.weight.requires_grad:
                result.append((layer.weight, weight[:o]))
            if layer.bias is not None and layer.bias.requires_grad:
                result.append((layer.bias, bias[:o]))
        return result

    def _fold(self, layers: Sequence[nn.Linear]) -> FoldedLayers:
        m = self.rotations.size
        stacked = _stack_padded([layer.weight.detach() for layer in layers])
        stacked = stacked.to(torch.promote_types(stacked.dtype, torch.float32))
        folded = self.rotations.fold(stacked[..., :m])
        weight = folded.weight
        if stacked.shape[2] > m:
            weight = torch.cat((weight, stacked[..., m:]), dim=2)
        biases = [layer.bias for layer in layers]
        if all(bias is None for bias in biases):
            return FoldedLayers(folded, weight, None)
        known = [
            layer.weight.new_zeros(layer.out_features) if bias is None else bias.detach()
            for layer, bias in zip(layers, biases, strict=True)
        ]
        return FoldedLayers(folded, weight, _stack_padded(known))


def _stack_padded(tensors: Sequence[Tensor]) -> Tensor:
    """Stacks tensors, shorter ones padded with zeros at the end of their first axis."""
    if all(len(tensor) == len(tensors[0]) for tensor in tensors):
        return torch.stack(list(tensors))
    return pad_sequence(list(tensors), batch_first=True)
