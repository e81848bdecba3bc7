"""Operations of torch counted: a clock that every machine reads alike, and waits for a device."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# operations whose result is read by the host: on an accelerator each one waits for the device
READS = (
    *("_local_scalar_dense", "_unique2", "unique_dim", "unique_consecutive", "nonzero", "equal"),
    *("masked_select", "bincount"),
)
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")  # of a mask: how many are true


def is_read(operation: Any, arguments: Sequence[Any]) -> bool:
    """Return whether the host reads the value of a tensor in an operation."""
    name = operation.overloadpacket.__name__
    if name in INDEXING:
        return any(index is not None and index.dtype == torch.bool for index in arguments[1])
    return name in READS


class CountOperations(TorchDispatchMode):
    """Inside, ``num`` grows by one with every operation on tensors, backward passes included.

    Args:
        is_counted: Whether an operation with its arguments counts; all do by default.
    """

    def __init__(self, is_counted: Callable[[Any, Sequence[Any]], bool] | None = None) -> None:
        super().__init__()
        self.num = 0
        self.is_counted = is_counted

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.num += self.is_counted is None or self.is_counted(func, args)
        return func(*args, **(kwargs or {}))
