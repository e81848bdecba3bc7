"""Rules that keep a number for every task and parameter of the backbone."""

from typing import Any, ClassVar

from torch import Tensor

from rotograd_cli.methods.rule import Weighting


class PerParameterWeighting(Weighting):
    """A weighting with a buffer ``[K, P]``, which is registered as ``[K, 0]``.

    P is known from the first step on. A state is loaded whatever P it has.
    """

    kept_name: ClassVar[str]
    """Name of the buffer."""

    def kept(self, G: Tensor) -> Tensor:
        """Return the buffer; in the first step it gets the shape of the gradients, all zeros."""
        buffer: Tensor = getattr(self, self.kept_name)
        if buffer.shape[1] == 0:
            buffer = buffer.new_zeros(G.shape)
            setattr(self, self.kept_name, buffer)
        return buffer

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state.get(prefix + self.kept_name)
        if saved is not None:
            setattr(self, self.kept_name, getattr(self, self.kept_name).new_zeros(saved.shape))
        super()._load_from_state_dict(state, prefix, *args)
