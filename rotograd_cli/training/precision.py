"""How the networks compute: arithmetic in 16 bits with its loss scale, and torch.compile."""

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError, NonFiniteError, first_line
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.training.seeding import rng_state, set_rng_state

logger = logging.getLogger(__name__)

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Type of the networks' arithmetic by the name that ``precision`` has; None for float32."""


class Snapshot:
    """What passes change of a model, and the generators, so that a step can be taken again.

    Args:
        model: The model before the step.
    """

    def __init__(self, model: MultiTaskMethod) -> None:
        self._model = model
        self._state = copy.deepcopy(model.changing_state())
        self._generators = rng_state()

    def restore(self) -> None:
        """Put the model and the generators back."""
        self._model.forget()
        self._model.load_state_dict(self._state, strict=False)
        set_rng_state(self._generators)


@dataclass
class LossScale:
    r"""The factor s that keeps gradients inside the range of float16.

    Losses are multiplied by s before the backward pass. The method and the optimisers see gradients
    without it, in float32; s is a power of two, so that nothing is rounded. A step in which a
    gradient overflows is taken again with s/2, from the same numbers: no batch is lost and nothing
    but rounding of the smallest gradients depends on the scale that a run began with.

    Reading whether a gradient overflowed waits for the device, once in every step.

    Args:
        value: s at the start, a power of two of at least 1.
        growth_steps: Steps without an overflow after which s is doubled.
    """

    value: float = 2.0**16
    growth_steps: int = 2000
    largest: ClassVar[float] = 2.0**24
    """Where doubling ends."""
    steps: int = field(default=0, init=False)
    """Steps since s last changed."""

    def take(self, model: MultiTaskMethod, step: Callable[[float], Tensor]) -> Tensor:
        """Take one optimiser step, more than once where a gradient overflows.

        Args:
            model: What passes change of its state is put back before another try, the random
                generators too.
            step: Takes the step with a loss scale; raises before anything else is updated.

        Returns:
            What ``step`` returned.

        Raises:
            NonFiniteError: If a loss is not finite, or a gradient is not with a scale of 1 either.
        """
        while True:
            before = Snapshot(model)
            try:
                result = step(self.value)
            except NonFiniteError as error:
                if self.value <= 1 or not all(map(math.isfinite, error.losses.values())):
                    raise
                self._change(self.value / 2)
                logger.debug("%s; the loss scale is %g from here on.", error, self.value)
                before.restore()
                continue
            self.steps += 1
            if self.steps >= self.growth_steps:
                self._change(min(2 * self.value, self.largest))
            return result

    def _change(self, value: float) -> None:
        self.value = value
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and the steps since it changed."""
        return {"value": self.value, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.value = float(state["value"])
        self.steps = int(state["steps"])


def compile_networks(networks: Iterable[nn.Module]) -> None:
    """Have every network compiled at its first call, each as one graph.

    The modules stay what they are: their parameters, names and ``state_dict`` do not change.

    Args:
        networks: Backbone and heads.
    """
    for network in networks:
        network.compile(fullgraph=True)


@contextmanager
def compilation(enabled: bool) -> Iterator[None]:
    """Inside, as many networks as there are may be compiled, and none falls back unnoticed.

    Compiled modules share the code object of ``nn.Module``'s call, to which torch's limit of
    compiled variants applies: with several networks the later ones would silently run eagerly.

    Args:
        enabled: Whether anything is compiled.

    Raises:
        ConfigError: If a network cannot be compiled as one graph.
    """
    if not enabled:
        yield
        return
    from torch._dynamo import config  # heavy

    try:
        with config.patch(
            recompile_limit=1024, accumulated_recompile_limit=8192, fail_on_recompile_limit_hit=True
        ):
            yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = first_line(error).rstrip(".")
        raise ConfigError(
            f"`compile` cannot be true here: torch.compile fails ({reason}); install a compiler, "
            "or leave it out."
        ) from error
