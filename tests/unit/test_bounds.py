"""Bounds in annotations: one line that names key, bounds and value."""

import math
from dataclasses import dataclass
from typing import Annotated

import pytest
from annotated_types import Ge, Gt, Interval

from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.bounds import check_bounds


@dataclass
class Inner:
    """A section."""

    rate: Annotated[float, Gt(0)] | None = None
    share: Annotated[float, Interval(ge=0, lt=1)] = 0.5


@dataclass
class Outer:
    """With a section."""

    inner: Inner
    count: Annotated[int, Ge(1)] = 1
    free: float = -1.0


def test_values_within_bounds_pass() -> None:
    for inner in (Inner(), Inner(0.1, 0.0), Inner(math.inf, 0.99)):
        check_bounds(Outer(inner))


def test_a_value_out_of_bounds_is_named_with_its_bounds() -> None:
    cases = (
        (Outer(Inner(), 0), "`x.count` must be at least 1, got 0."),
        (Outer(Inner(0.0)), "`x.inner.rate` must be above 0 or null, got 0.0."),
        (Outer(Inner(math.nan)), "`x.inner.rate` must be above 0 or null, got nan."),
        (Outer(Inner(None, 1.0)), "`x.inner.share` must be at least 0 and below 1, got 1.0."),
    )
    for record, message in cases:
        with pytest.raises(ConfigError) as caught:
            check_bounds(record, "x.")
        assert str(caught.value) == message
