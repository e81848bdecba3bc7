"""Warnings, in the first steps, about loops that do not train what they seem to."""

import gc
import math
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import TensorWeakRef

from rotograd_cli.errors import RankError, listed

_NUM_STEPS = 3  # of the network, after which watching ends


class Watch:
    """Watches the first optimiser steps of one model, by hooks that torch's optimisers call.

    It goes by what optimisers do, and guesses nothing: loops that accumulate gradients, skip steps,
    freeze parts, average weights or call one optimiser from another cause no warning. After three
    steps of the network the hooks are removed.
    """

    def __init__(self) -> None:
        self.saw_gradient = False
        """Whether the method has set a gradient of its own parameters."""
        self._method: weakref.ref[Any] | None = None
        self._num_passes = 0
        self._num_steps = 0
        self._depth = 0  # of optimisers that call others
        # which optimiser used which gradient of a parameter last, and its version
        self._applied: dict[int, tuple[weakref.ref[Optimizer], TensorWeakRef, int]] = {}
        self._trained: set[int] = set()
        self._sizes: dict[int, Tensor] = {}  # of the method's parameters at the start
        self._said: set[str] = set()

    def begin_backward(
        self, method: Any, losses: Sequence[Tensor | None], loss_scale: float | Tensor | None
    ) -> None:
        """Watch the first backward passes.

        Args:
            method: The model.
            losses: Its task losses.
            loss_scale: What it was told about their scale.
        """
        if self._num_steps >= _NUM_STEPS:
            _leave(self)
            return
        if self._method is None:
            self._look_for_processes(method)
            self._method = weakref.ref(method)
            self._sizes = {id(p): _size(p) for p in method.mtl_parameters()}
            _join(self)
        self._num_passes += 1
        if loss_scale is None and self._num_passes <= _NUM_STEPS and _depends_on_scale(method):
            self._look_for_scaler(method.method_name, losses)

    def say(self, what: str, message: str) -> None:
        """Warn, once for each kind of misuse.

        Args:
            what: The kind.
            message: One line.
        """
        if what not in self._said:
            self._said.add(what)
            warnings.warn(message, stacklevel=4)

    def warn_of_plain_backward(self) -> None:
        """Say that losses were differentiated by autograd alone."""
        self.say(
            "plain backward",
            "The last losses were differentiated without model.backward, so that backbone and "
            "method got no gradient; call model.backward(losses) instead of "
            "sum(losses).backward() (or freeze the backbone, if the heads alone are to be "
            "trained).",
        )

    # ---- optimisers

    def before_step(self, optimizer: Optimizer) -> None:
        """Look at an optimiser before its step."""
        method = self._watched()
        if method is not None:
            self._look_for_second_use(method, optimizer)
        self._depth += 1

    def after_step(self, optimizer: Optimizer) -> None:
        """Note what an optimiser has used."""
        self._depth = max(0, self._depth - 1)  # watching may have begun inside a step
        method = self._watched()
        if method is None:
            return
        held = _held(optimizer)
        self._trained |= held
        used = [p for p in method.parameters() if id(p) in held and p.grad is not None]
        user = weakref.ref(optimizer)
        for p in used:
            self._applied[id(p)] = (user, TensorWeakRef(p.grad), p.grad._version)
        network = {id(p) for p in method.model_parameters()}
        self._num_steps += any(id(p) in network for p in used)
        if self._num_steps >= _NUM_STEPS:
            self._applied.clear()
            self._look_for_untrained(method)

    def _watched(self) -> Any:
        """Return the model at an optimiser's first steps; None in a step of another optimiser."""
        if self._method is None or self._depth > 0 or self._num_steps >= _NUM_STEPS:
            return None
        return self._method()

    def _look_for_second_use(self, method: nn.Module, optimizer: Optimizer) -> None:
        held = _held(optimizer)
        own = {name: p for name, p in method.named_parameters() if id(p) in held}
        is_cleared = all(p.grad is None for p in own.values())
        twice = [name for name, p in own.items() if self._is_used_up(p, optimizer, is_cleared)]
        if twice:
            what = "apply the same gradient of"
            if is_cleared:
                what = "have, and the second finds no gradient left of,"
            self.say(
                "two optimisers",
                f"Two optimisers {what} {_listed(twice)}; give each "
                "parameter to one: model.model_parameters() to the first (backbone and heads), "
                "model.mtl_parameters() to the second (what the method learns).",
            )

    def _is_used_up(self, parameter: nn.Parameter, optimizer: Optimizer, is_cleared: bool) -> bool:
        """Whether another optimiser has used a parameter's gradient, or the one before it."""
        if id(parameter) not in self._applied:
            return False
        user, used, version = self._applied[id(parameter)]
        gradient = parameter.grad
        is_same = gradient is not None and used() is gradient and version == gradient._version
        return user() not in (None, optimizer) and (is_cleared or is_same)

    def _look_for_untrained(self, method: Any) -> None:
        names = {id(p): name for name, p in method.named_parameters()}
        learned = [p for p in method.mtl_parameters() if p.requires_grad]
        without = [p for p in learned if id(p) not in self._trained]
        has_gradient = self.saw_gradient or any(p.grad is not None for p in learned)
        kind = method.method_name
        if learned and method.needs_losses_after_update and not has_gradient:
            self.say(
                "no second call",
                f"{kind} learns from what an update gains, but was never told: after the network's "
                "step, compute the losses of the same batch again (torch.no_grad()) and call "
                "model.observe_update(before, after, present), then step the method's optimiser.",
            )
        elif without and has_gradient and not self._are_trained_elsewhere(without):
            self.say(
                "no optimiser",
                f"{_listed([names[id(p)] for p in without])} of {kind} is in no optimiser and "
                "stays as it is; give model.mtl_parameters() to one, step it and clear its "
                "gradients, or freeze what is not to be trained (requires_grad_(False)).",
            )

    def _are_trained_elsewhere(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether they have changed, or are in an optimiser that has not stepped yet."""
        if any(bool(self._sizes[id(p)] != _size(p)) for p in parameters):
            return True
        held = set().union(*map(_held, _instances(Optimizer)))
        return any(id(p) in held for p in parameters)

    # ---- several processes

    def _look_for_processes(self, method: Any) -> None:
        """Refuse a wrapper that knows nothing of task gradients; warn of a model that is alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        wrappers = _instances(DistributedDataParallel)
        if any(method is module for wrapper in wrappers for module in wrapper.module.modules()):
            raise RankError(
                f"{method.method_name} must not be inside DistributedDataParallel, whose ranks "
                "would each combine the gradients of their own rows; leave the wrapper out and "
                "call rotograd_cli.methods.distribute(model)."
            )
        if dist.get_world_size() > 1 and method.ranks.size == 1:
            self.say(
                "alone",
                f"Each of {dist.get_world_size()} processes trains a model of its own; call "
                "rotograd_cli.methods.distribute(model) to train one.",
            )

    # ---- loss scales

    def _look_for_scaler(self, kind: str, losses: Sequence[Tensor | None]) -> None:
        """Find losses whose last operations multiply all of them by the scale of a GradScaler."""
        factors = [_scalar_factors(loss) for loss in losses if loss is not None]
        if not all(factors):
            return
        self._num_passes = _NUM_STEPS  # reads numbers, so it looks once
        common = set.intersection(*({float(x) for x in of_loss} for of_loss in factors))
        scales = {x for x in common if x > 1 and math.frexp(x)[0] == 0.5}  # powers of two
        scalers = _instances(torch.amp.GradScaler) if scales else []
        if any(scaler.is_enabled() and scaler.get_scale() in scales for scaler in scalers):
            self.say(
                "scale",
                f"The losses were scaled by a GradScaler, which {kind} does not know and which its "
                "own gradients are not linear in; pass "
                "model.backward(losses, loss_scale=scaler.get_scale()).",
            )


_watches: weakref.WeakSet[Watch] = weakref.WeakSet()
_hooks: list[RemovableHandle] = []


def _join(watch: Watch) -> None:
    """Let torch's optimisers call a watch."""
    _watches.add(watch)
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before_step))
        _hooks.append(register_optimizer_step_post_hook(_after_step))


def _leave(watch: Watch) -> None:
    """Let them call it no longer, and nothing at all once nobody watches."""
    _watches.discard(watch)
    # Only a backward pass comes here. A finalizer could run while torch goes through its hooks.
    while _hooks and not _watches:
        _hooks.pop().remove()


def _before_step(optimizer: Optimizer, *_: Any) -> None:
    if not torch.compiler.is_compiling():
        for watch in list(_watches):
            watch.before_step(optimizer)


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    if not torch.compiler.is_compiling():
        for watch in list(_watches):
            watch.after_step(optimizer)


def _held(optimizer: Optimizer) -> set[int]:
    """Return the ids of an optimiser's parameters."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _instances(kind: type) -> list[Any]:
    """Return objects of a class that are alive. Slow: asked once, on suspicion."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]


def _size(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().abs().sum()


def _depends_on_scale(method: Any) -> bool:
    """Whether a method does more than adding up gradients, and so has to know the scale."""
    learned = next(method.mtl_parameters(), None)
    state = next(method.rule.buffers(), None)
    return method.per_task_gradients or learned is not None or state is not None


def _scalar_factors(loss: Tensor) -> list[Tensor]:
    """Return single numbers that the last operations multiply a loss by."""
    factors, node = [], loss.grad_fn
    for _ in range(3):  # scaled, then shared out over micro-batches, say
        if node is None or not node.next_functions:
            break
        factor = getattr(node, "_saved_other", None) if node.name() == "MulBackward0" else None
        if factor is not None and factor.dim() == 0 and factor.dtype == torch.float32:
            factors.append(factor)  # a plain number is saved in float64
        node = node.next_functions[0][0]
    return factors


def _listed(names: Sequence[str]) -> str:
    return listed([f"`{name}`" for name in names], 1)
