"""Values that are computed once inside a context, and in every pass outside it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

T = TypeVar("T")


class _Kept(threading.local):
    """Values that the contexts of one thread keep."""

    def __init__(self) -> None:
        self.num_open = 0
        # sources and value, by module and name
        self.values: WeakKeyDictionary[nn.Module, dict[str, tuple[list[Tensor], Any]]]
        self.values = WeakKeyDictionary()
        self.suspended: WeakSet[nn.Module] = WeakSet()


_kept = _Kept()


@contextmanager
def cached() -> Iterator[None]:
    """Compute rotations and folded layers once, and keep them until the context ends.

    Parameters must stay as they are meanwhile, but for optimisers: after the last backward pass of
    an optimiser step nothing is kept for its model until its next forward pass in training, so that
    a whole training loop may run inside.
    """
    _kept.num_open += 1
    try:
        yield
    finally:
        _kept.num_open -= 1
        if not is_holding():
            _kept.values.clear()
            _kept.suspended.clear()


def is_holding() -> bool:
    """Whether a :func:`cached` context is open in this thread."""
    return _kept.num_open > 0


def release(owner: nn.Module) -> None:
    """Drop what is kept for a module, whose parameters have changed."""
    _kept.values.pop(owner, None)


def suspend(owner: nn.Module) -> None:
    """Keep nothing for a module, whose parameters are about to change, until :func:`keep`."""
    release(owner)
    if is_holding():
        _kept.suspended.add(owner)


def keep(owner: nn.Module) -> None:
    """Keep values of a module again."""
    _kept.suspended.discard(owner)


def constant(owner: nn.Module, name: str, sources: Sequence[Tensor], compute: Callable[[], T]) -> T:
    """Compute a value without gradient and in full precision, once inside :func:`cached`.

    Args:
        owner: Module that the value belongs to.
        name: What it is.
        sources: Tensors it is computed from. Others (``torch.func.functional_call``) are noticed.
        compute: Computes it.

    Returns:
        The value, which later passes with gradients may use.
    """
    keeps = is_holding() and owner not in _kept.suspended
    kept = _kept.values.setdefault(owner, {}) if keeps else {}
    entry = kept.get(name)
    if entry is None or list(map(id, entry[0])) != list(map(id, sources)):
        autocast = torch.autocast(sources[0].device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), autocast:
            entry = kept[name] = (list(sources), compute())
    value: T = entry[1]
    return value


def is_traced() -> bool:
    """Whether operations are recorded or transformed, so that no number can be read.

    True under ``torch.compile``, ``torch.export``, ``torch.jit.trace`` and the transforms of
    ``torch.func``.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
    )
