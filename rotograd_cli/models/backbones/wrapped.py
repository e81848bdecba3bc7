"""Networks that know nothing of this package."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from rotograd_cli.errors import ConfigError, ShapeError, listed
from rotograd_cli.models.features import Pool, pooled


class Wrapped(nn.Module):
    """Any network as a backbone, one of Hugging Face for instance.

    It takes what the network takes, by position and by keyword.

    Args:
        input_shape: Shape of one example's input; not needed here.
        module: The network, or what makes it: a ``_target_`` with ``_partial_: true``.
        output: Where the features are in what it returns: key of a dict, name of an attribute, or
            position in a tuple. None takes the output itself, or the first of a tuple.
        pool: See :func:`~rotograd_cli.models.features.pooled`. The mean of tokens is over those of
            the input ``attention_mask``, where there is one.

    Raises:
        ConfigError: If ``module`` is neither.
    """

    def __init__(
        self, *, input_shape: Any, module: Any, output: str | int | None, pool: Pool
    ) -> None:
        super().__init__()
        del input_shape
        network = module if isinstance(module, nn.Module) or not callable(module) else module()
        if not isinstance(network, nn.Module):
            raise ConfigError(
                "`backbone.module` must be a network of class Module, got "
                f"{type(network).__name__}; name one with backbone.module._target_."
            )
        self.module = network
        self.output = output
        self.pool = pool

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the features."""
        output = self.module(*inputs, **named)
        features = _part(output, self.output)
        if not isinstance(features, Tensor):
            raise ShapeError(
                f"`backbone.output` must name a tensor in what {type(self.module).__name__} "
                f"returns, a {type(output).__name__}, got {self.output!r}{_choices(output)}."
            )
        return pooled(features, self.pool, named.get("attention_mask"))


def _part(output: Any, key: str | int | None) -> Any:
    """Return what an output has under a key; None if it has nothing there."""
    if key is None:
        is_several = isinstance(output, (list, tuple)) and output
        return output[0] if is_several else output
    if isinstance(output, Mapping):
        return output.get(key)
    if isinstance(key, str):
        return getattr(output, key, None)
    is_index = isinstance(output, (list, tuple)) and -len(output) <= key < len(output)
    return output[key] if is_index else None


def _choices(output: Any) -> str:
    """Return what may be chosen, for a message."""
    if isinstance(output, Mapping):
        return f"; choose {listed(list(output), 10)} with backbone.output=NAME"
    if isinstance(output, Sequence):
        return f"; choose 0 to {len(output) - 1} with backbone.output=NUMBER"
    return ""
