"""Training loops that look right and train something else: seen in the first steps, said once."""

import gc
import warnings
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

_STEPS = 3  # of the network, after which nothing is looked at any more


class Watched(Protocol):
    """What is known of a method."""

    needs_losses_after_update: bool

    def model_parameters(self) -> Iterable[nn.Parameter]:
        """Those of the network."""

    def mtl_parameters(self) -> Iterable[nn.Parameter]:
        """Those of the method."""


class Watch:
    """Watches the first optimiser steps of one model, by hooks that all optimisers call.

    Only what was seen counts: which optimiser stepped, with which parameters and gradients. So
    there is nothing to say about loops that accumulate, skip steps or freeze parts, nor about
    optimisers that are not torch's. After three steps of the network the hooks are gone.
    """

    def __init__(self) -> None:
        self._depth = 0  # of optimisers that call others
        self._num_steps = 0
        self._used: dict[int, tuple[int, int, int]] = {}
        self._trained_method = False
        self._said: set[str] = set()
        self._hooks: list[Any] = []
        self._method: weakref.ref[Any] | None = None
        self.saw_gradient = False
        """Whether the method ever set a gradient of its own parameters."""

    def start(self, method: Any) -> None:
        """Called by every backward pass; begins to watch at the first.

        Args:
            method: The model, of which only a weak reference is kept.
        """
        if self._method is not None:
            return
        self._method = weakref.ref(method)
        self._hooks = [_hook(register_optimizer_step_pre_hook, self, "before_step")]
        self._hooks.append(_hook(register_optimizer_step_post_hook, self, "after_step"))
        weakref.finalize(self, _remove, self._hooks)
