"""Inputs of networks: a tensor, or tensors in tuples and dictionaries, examples on the first axis.

A dictionary is what a backbone takes by keyword, a tuple what it takes by position: ``{"ids": x}``
calls ``backbone(ids=x)``, and ``(x, y)`` calls ``backbone(x, y)``.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Inputs: TypeAlias = "Tensor | tuple[Inputs, ...] | dict[str, Inputs]"
NOTHING: Any = object()
"""Default of the first argument of a network that may be called by keyword alone."""


def positional(x: Any, more: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments that a network was called with by position.

    Its ``forward(x=NOTHING, *more, **named)`` has a name for the first one, which torch.export and
    its ``dynamic_shapes`` need.
    """
    return more if x is NOTHING else (x, *more)


def call(function: Callable[..., Any], inputs: Inputs) -> Any:
    """Call a network with inputs: a dictionary by keyword, a tuple by position."""
    if isinstance(inputs, dict):
        return function(**inputs)
    if isinstance(inputs, tuple):
        return function(*inputs)
    return function(inputs)


def map_tensors(function: Callable[[Tensor], Any], inputs: Inputs) -> Any:
    """Return the same tree with a function's result in place of every tensor."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    return pytree.tree_map(function, inputs)


def tensors(inputs: Inputs) -> list[Tensor]:
    """Return the tensors, in order."""
    return [inputs] if isinstance(inputs, Tensor) else pytree.tree_leaves(inputs)


def num_rows(inputs: Inputs) -> int:
    """Return the number of examples: the length of the first axis."""
    return len(tensors(inputs)[0])


def like_parameters(inputs: Inputs, parameter: Tensor) -> Any:
    """Return inputs on the device of a parameter; floating-point ones in its type."""

    def moved(x: Tensor) -> Tensor:
        return x.to(parameter.device, parameter.dtype if x.is_floating_point() else x.dtype)

    return map_tensors(moved, inputs)


def shape_of_one(inputs: Inputs) -> Any:
    """Return the shape of one example: a tuple of sizes, or the same tree of them."""
    return map_tensors(lambda x: tuple(x.shape[1:]), inputs)


def shown(inputs: Inputs) -> str:
    """Return shapes in words.

    Examples:
        >>> shown({"ids": torch.zeros(2, 8, dtype=torch.int64), "image": torch.zeros(2, 3)})
        '{ids: [N, 8] of int64, image: [N, 3]}'
    """
    if isinstance(inputs, dict):
        return f"{{{', '.join(f'{name}: {shown(x)}' for name, x in inputs.items())}}}"
    if isinstance(inputs, tuple):
        return f"({', '.join(map(shown, inputs))})"
    kind = str(inputs.dtype).removeprefix("torch.")
    sizes = ", ".join(map(str, ("N", *inputs.shape[1:])))
    return f"[{sizes}]" + ("" if kind == "float32" else f" of {kind}")


def recorded(inputs: Inputs) -> Any:
    """Return types and shapes of one example as plain values, for :func:`zeros_of`.

    Examples:
        >>> recorded((torch.zeros(2, 3), {"ids": torch.zeros(2, 8, dtype=torch.int64)}))
        ['float32 3', {'ids': 'int64 8'}]
    """
    if isinstance(inputs, dict):
        return {name: recorded(x) for name, x in inputs.items()}
    if isinstance(inputs, tuple):
        return [recorded(x) for x in inputs]
    return " ".join(map(str, (str(inputs.dtype).removeprefix("torch."), *inputs.shape[1:])))


def zeros_of(record: Any) -> Any:
    """Return one example of zeros, first axis 1, of what :func:`recorded` returned."""
    if isinstance(record, dict):
        return {name: zeros_of(each) for name, each in record.items()}
    if isinstance(record, list):
        return tuple(map(zeros_of, record))
    kind, *sizes = str(record).split()
    return torch.zeros(1, *map(int, sizes), dtype=getattr(torch, kind))
