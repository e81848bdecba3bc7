"""Which cases of a test the default run has."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_unless(quick: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """Return the values for ``parametrize``; those that are not quick are marked slow.

    A tuple holds the values of several arguments.
    """
    result = []
    for value in values:
        arguments = value if isinstance(value, tuple) else (value,)
        marks = () if value in quick else pytest.mark.slow
        result.append(pytest.param(*arguments, marks=marks))
    return result
