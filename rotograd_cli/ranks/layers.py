"""Layers that look at the batch as a whole: its statistics, its random masks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rotograd_cli.errors import RankError
from rotograd_cli.ranks.base import Ranks

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def see_whole_batch(model: nn.Module, ranks: Ranks) -> None:
    """Let BatchNorm and dropout compute, in place, what one process would over the whole batch.

    Parameters, buffers and names stay as they are.

    Args:
        model: Any network.
        ranks: The processes.

    Raises:
        RankError: If a layer draws random numbers in another way, or is to be compiled.
    """
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    for name, module in model.named_modules():
        if compiled and isinstance(module, (nn.modules.batchnorm._BatchNorm, *_DROPOUTS)):
            raise RankError(
                f"`compile` must be false where ranks share a layer that looks at the whole batch, "
                f"got {name} ({type(module).__name__}); leave it out, or train with one process."
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = WholeBatchNorm if on_cpu else nn.SyncBatchNorm
            module.__dict__["process_group"] = None  # all ranks
        elif type(module) in _DROPOUTS:
            module.channels = type(module) is not nn.Dropout
            module.__class__ = WholeBatchDropout
            module.ranks = ranks
        elif isinstance(module, (nn.modules.dropout._DropoutNd, nn.RReLU)) or _drops_paths(module):
            raise RankError(
                f"{name} must be a layer that many ranks can share, got {type(module).__name__}; "
                "use nn.Dropout, leave it out with a probability of 0, or train with one process."
            )


def _drops_paths(module: nn.Module) -> bool:
    """Whether a layer of torchvision or timm leaves out branches at random."""
    probability = {"StochasticDepth": "p", "DropPath": "drop_prob"}.get(type(module).__name__)
    return probability is not None and bool(getattr(module, probability, 0))


class WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """``nn.SyncBatchNorm``, which refuses the CPU, for the CPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any, as the layer that this one was."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised input, shape ``[N, C, ...]``."""
        if not self.training:  # ranks are not in step
            result: Tensor = super().forward(x)
            return result
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        ones = x.new_full((1,), x.numel() / x.shape[1])
        *total, num = _Sum.apply(torch.cat((x.sum(axes), ones))).unbind()
        mean = torch.stack(total) / num.detach()
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / num.detach()
        self._follow(mean.detach(), variance.detach(), num.detach())
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is None:
            return y
        scaled: Tensor = y * self.weight.view(shape) + self.bias.view(shape)
        return scaled

    def _follow(self, mean: Tensor, variance: Tensor, num: Tensor) -> None:
        """Update the running statistics as torch does."""
        if not (self.training and self.track_running_stats) or self.running_mean is None:
            return
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        factor = self.momentum
        factor = 1.0 / float(self.num_batches_tracked) if factor is None else factor
        unbiased = variance * (num / (num - 1).clamp_min(1))
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), factor)


class WholeBatchDropout(nn.Dropout):
    """Dropout whose masks are those of one process: drawn for the whole batch, own rows kept."""

    ranks: Ranks
    channels: bool

    def forward(self, x: Tensor) -> Tensor:
        """The input with entries (or channels) left out, the others scaled up."""
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        keep = 1 - self.p
        like = x.flatten(2)[..., :1] if self.channels else x
        mask = self.ranks.draw(lambda empty: empty.bernoulli_(keep).div_(keep), like)
        return x * (mask.view(*mask.shape[:2], *[1] * (x.dim() - 2)) if self.channels else mask)


class _Sum(torch.autograd.Function):
    """Differentiable sum over the ranks; torch's own (``distributed.nn``) is deprecated."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
