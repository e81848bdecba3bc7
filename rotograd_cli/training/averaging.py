"""The exponential moving average of a network's weights (EMA)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.engine.method import MultiTaskMethod


class WeightAverage:
    r"""A copy of a model whose weights follow it: :math:`\bar w \leftarrow d\bar w + (1-d)w`.

    The first update copies the weights, as torch's ``AveragedModel`` does. All parameters are
    averaged, free parameters of rotations too; with a constant base their mean belongs to a
    rotation. So are the running statistics of normalisation layers, which belong to the weights.
    All other buffers are copied.

    Args:
        model: The network with its method, on its device; not joined to ranks yet.
        decay: d, between 0 and 1.

    Raises:
        ConfigError: If the bases of the rotations change.
    """

    def __init__(self, model: MultiTaskMethod, decay: float) -> None:
        if model.rotated is not None and model.rotations.rebase_every is not None:
            raise ConfigError(
                "`train.ema_decay` needs rotations with a constant base, of which alone a mean is "
                f"a rotation, got method.rebase_every={model.rotations.rebase_every}; add "
                "method.rebase_every=null."
            )
        self._decay = decay
        average: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(model, multi_avg_fn=average)
        self.num_updates = 0

    @property
    def model(self) -> MultiTaskMethod:
        """The model with the averaged weights."""
        model = self._average.module
        assert isinstance(model, MultiTaskMethod)
        return model

    @torch.no_grad()
    def update(self, model: MultiTaskMethod) -> None:
        """Follow the model after a step."""
        before = [statistic.clone() for statistic in _running_statistics(self.model)]
        for own, other in zip(self.model.buffers(), model.buffers(), strict=True):
            if own.shape != other.shape:  # made in the first step, as those of DB-MTL
                own.data = torch.empty_like(other)
        self._average.update_parameters(model)  # copies all buffers
        if self.num_updates:
            for statistic, old in zip(_running_statistics(self.model), before, strict=True):
                statistic.lerp_(old, self._decay)
        self.num_updates += 1

    def restore_count(self, num_updates: int) -> None:
        """Take over how many updates there have been, with the weights of a checkpoint."""
        self.num_updates = num_updates
        self._average.n_averaged.fill_(num_updates)


def _running_statistics(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, _NormBase):
            values = (module.running_mean, module.running_var)
            yield from (value for value in values if value is not None)
