"""Heads that begin with a convolution over rotated channels: rotations folded into its weight."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rotograd_cli.methods.features import RotatedAxes
from rotograd_cli.methods.linear_layers import is_plain, sequence_of

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class ConvHeads:
    r"""A view of K heads as first convolutions and the rest of each head.

    A convolution sums over channels, so :math:`W * (R z) = (W R) * z`, whatever its kernel, stride
    and padding: the head gets the features as they are, with a folded weight, and the gradient at
    them needs no rotating back. The weight's own gradient is autograd's, through the folding.

    Args:
        heads: The heads; see :meth:`fits`.
        axes: Layout of the features.
    """

    def __init__(self, heads: nn.ModuleList, axes: RotatedAxes) -> None:
        self.heads, self.axes = heads, axes

    def fits(self, features: Tensor) -> bool:
        """Whether every head begins with a plain convolution over exactly the rotated channels."""
        axes = self.axes
        kind = _CONVOLUTIONS.get(len(axes.post_shape))
        if kind is None or len(axes.rotation_shape) != 1:
            return False
        if features.dim() != 2 + len(axes.post_shape):
            return False
        return all(
            bool(modules := sequence_of(head))
            and type(modules[0]) is kind
            and is_plain(modules[0])
            and modules[0].groups == 1
            and modules[0].in_channels == features.shape[1]
            and modules[0].weight.device == features.device
            for head in self.heads
        )

    def output(self, task: int, features: Tensor, R: Tensor) -> Any:
        r"""A head's output for rotated features, from features as they are.

        Args:
            task: Which head.
            features: z, shape ``[N, d, *post_shape]``.
            R: Its rotation, constant, shape ``[m, m]``.

        Returns:
            What the head returns for :math:`R z`.
        """
        layer, *rest = sequence_of(self.heads[task])
        kernel, m = layer.weight, R.shape[0]
        assert isinstance(kernel, Tensor)
        with torch.autocast(features.device.type, enabled=False):
            by_channel = kernel.movedim(1, -1)  # [o, *kernel, d]
            weight = by_channel[..., :m] @ R.to(kernel.dtype)
            weight = torch.cat((weight, by_channel[..., m:]), dim=-1).movedim(-1, 1)
        result: Any = functional_call(layer, {"weight": weight.contiguous()}, (features,))
        for module in rest:
            result = module(result)
        return result
