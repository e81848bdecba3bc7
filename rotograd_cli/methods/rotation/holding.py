"""Values that are computed once inside a context, and in every pass outside it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

T = TypeVar("T")


# sources and value, by module and name
_held: WeakKeyDictionary[nn.Module, dict[str, tuple[list[Tensor], Any]]] | None = None


@contextmanager
def cached() -> Iterator[None]:
    """Compute rotations and folded layers once, and keep them until the context ends.

    Parameters must stay as they are meanwhile. The last backward pass of an optimiser step ends the
    keeping for its model, so that training inside the context sees every step.
    """
    global _held
    before = _held
    _held = WeakKeyDictionary() if before is None else before
    try:
        yield
    finally:
        _held = before


def is_holding() -> bool:
    """Whether a :func:`cached` context is open."""
    return _held is not None


def release(owner: nn.Module) -> None:
    """Drop what is kept for a module, whose parameters are about to change."""
    if _held is not None:
        _held.pop(owner, None)


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
    kept = {} if _held is None else _held.setdefault(owner, {})
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
