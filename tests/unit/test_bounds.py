"""Ranges in annotations: one line that names key, range and value."""

import math
from dataclasses import dataclass
from typing import Annotated

import pytest
from annotated_types import Ge, Gt, Lt, MultipleOf

from rotograd_cli.bounds import check_fields, check_range, checked
from rotograd_cli.errors import ConfigError


@dataclass
class Inner:
    """A section."""

    rate: Annotated[float, Gt(0)] | None = None
    share: Annotated[float, Ge(0), Lt(1)] = 0.5


@dataclass
class Outer:
    """A record with a section."""

    inner: Inner
    count: Annotated[int, Ge(1)] = 1
    free: float = -1.0


def test_fields_within_their_ranges_pass() -> None:
    for inner in (Inner(), Inner(0.1, 0.0), Inner(math.inf, 0.99)):
        check_fields(Outer(inner))


def test_a_field_out_of_its_range_is_named_with_its_section() -> None:
    cases = (
        (Outer(Inner(), 0), "`x.count` must be at least 1, got 0."),
        (Outer(Inner(0.0)), "`x.inner.rate` must be more than 0, got 0.0."),
        (Outer(Inner(math.nan)), "`x.inner.rate` must be more than 0, got nan."),
        (Outer(Inner(None, 1.0)), "`x.inner.share` must be less than 1, got 1.0."),
    )
    for record, message in cases:
        with pytest.raises(ConfigError) as caught:
            check_fields(record, "x.")
        assert str(caught.value) == message


def test_what_is_no_range_is_left_to_others() -> None:
    check_range("width", 7, Annotated[int, MultipleOf(8), "a width"])
    with pytest.raises(ConfigError, match="`width` must be at least 8, got 7"):
        check_range("width", 7, Annotated[int, "a width", Ge(8)])


def test_annotations_that_are_strings_are_checked_too() -> None:
    """Those of a module with ``from __future__ import annotations``."""

    @checked
    def root(x: "Annotated[float, Ge(0)]", y: "Unknown" = 0) -> float:  # type: ignore[name-defined]  # noqa: F821
        return float(x**0.5 + y)

    @checked
    def power(x: "Annotated[float, Ge(0)]") -> float:
        return float(x**2)

    assert root(4) == 2  # without all names of its module nothing can be read
    assert power(2) == 4
    with pytest.raises(ConfigError, match="`x` must be at least 0, got -1"):
        power(-1)
