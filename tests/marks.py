"""Which cases of a test the default run has."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_unless(quick: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """Return the values for ``parametrize``, those that are not quick marked slow."""
    return [
        value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values
    ]
