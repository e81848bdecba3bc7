"""Fixtures of several test files."""

import gc
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.counting import CountOperations, is_read

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


# until all tests are imported: what modules make stays, and is not looked at again and again
gc.disable()


def pytest_collection_finish() -> None:
    """The tests begin."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def count_reads() -> Callable[[Callable[[], Any]], int]:
    """Counts how often a function has the host read a value of a tensor."""

    def count(function: Callable[[], Any]) -> int:
        with CountOperations(is_read) as mode:
            function()
        return mode.num

    return count
