"""Networks that know nothing of this package."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from rotograd_cli.errors import ConfigError, ShapeError, listed
from rotograd_cli.models.features import Pool, pooled


class Wrapped(nn.Module):
    """Any network as a backbone, one of Hugging Face for instance.

    Inputs that are a dict are its keyword arguments, those in a tuple its positional ones.

    Args:
        input_shape: Shape of one example's input; not needed here.
        module: Makes the network: its ``_target_`` and options, with ``_partial_: true``, so that
            its weights are drawn from the run's seed.
        output: Where the features are in what it returns: key of a dict, name of an attribute, or
            position in a tuple. None takes the output itself, or the first of a tuple.
        pool: See :func:`~rotograd_cli.models.features.pooled`. The mean of tokens is over those of
            the input ``attention_mask``, where there is one.

    Raises:
        ConfigError: If ``module`` is a network already, or nothing that makes one.
    """

    def __init__(
        self,
        *,
        input_shape: Any,
        module: Any,
        output: str | int | None,
        pool: Pool,
    ) -> None:
        super().__init__()
        del input_shape
        if isinstance(module, nn.Module) or not callable(module):
            raise ConfigError(
                "`backbone.module` must be a _target_ with _partial_: true, so that its weights "
                f"are drawn from the run's seed, got {type(module).__name__}; add "
                "++backbone.module._partial_=true."
            )
        self.module = module()
        self.output = output
        self.pool = pool

    def forward(self, x: Any) -> Tensor:
        """Return the features."""
        features = _item(self._run(x), self.output)
        if not isinstance(features, Tensor):
            raise ShapeError(
                f"`backbone.output` must name a tensor in the output of "
                f"{type(self.module).__name__}, got {type(features).__name__}"
                f"{_choices(features)}."
            )
        mask = x.get("attention_mask") if isinstance(x, Mapping) else None
        return pooled(features, self.pool, mask)

    def _run(self, x: Any) -> Any:
        if isinstance(x, Mapping):
            return self.module(**x)
        return self.module(*x) if isinstance(x, tuple) else self.module(x)


def _item(output: Any, key: str | int | None) -> Any:
    if key is None:
        is_several = isinstance(output, (list, tuple)) and output
        return output[0] if is_several else output
    by_index = isinstance(key, int) or isinstance(output, Mapping)
    try:
        return output[key] if by_index else getattr(output, str(key))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ShapeError(
            f"`backbone.output` must be in the output of the network, got {key!r} for "
            f"{type(output).__name__}{_choices(output)}."
        ) from error


def _choices(output: Any) -> str:
    """Return what may be chosen, for a message."""
    if isinstance(output, Mapping):
        return f"; choose {listed(list(output), 10)} with backbone.output=NAME"
    if isinstance(output, Sequence):
        return f"; choose 0 to {len(output) - 1} with backbone.output=NUMBER"
    return ""
