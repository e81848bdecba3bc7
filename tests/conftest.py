"""Fixtures of several test files."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# operations whose result is read by the host: on an accelerator each one waits for the device
READS = (
    *("_local_scalar_dense", "_unique2", "unique_dim", "unique_consecutive", "nonzero", "equal"),
    *("masked_select", "bincount"),
)
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")  # of a mask: how many are true


# the width of tables, whatever terminal the tests run in
os.environ["COLUMNS"] = "200"

# thousands of tiny operations: a second thread only waits
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of an accelerator run where there is one, one after the other."""
    for item in items:
        if item.get_closest_marker("gpu"):
            none = not torch.cuda.is_available()
            item.add_marker(pytest.mark.skipif(none, reason="needs a CUDA device"))
            item.add_marker(pytest.mark.xdist_group("gpu"))


class _CountReads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        masks = name in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.num += masks or name in READS
        return func(*args, **(kwargs or {}))


@pytest.fixture
def count_reads() -> Callable[[Callable[[], Any]], int]:
    """Counts how often a function has the host read a value of a tensor."""

    def count(function: Callable[[], Any]) -> int:
        with _CountReads() as mode:
            function()
        return mode.num

    return count
