"""Nash-MTL against the bargaining equation."""

import logging

import pytest
import torch

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.fairgrad import FairGrad
from rotograd_cli.methods.nashmtl import NashMTL
from rotograd_cli.methods.rule import Statistics
from tests.methods.common import CASES, close, gradients, nash


def test_the_weights_solve_the_bargaining_equation() -> None:
    for case in CASES:
        G = gradients(*case)  # the longest has length 1
        w = nash(len(G)).weights(Statistics.of(G))
        assert (w > 0).all()
        close(w * (G @ G.mT @ w), torch.ones_like(w), atol=1e-6, message=case)
        assert float((w @ G).norm()) == pytest.approx(len(G) ** 0.5, rel=1e-6)


def test_the_units_of_the_losses_do_not_matter() -> None:
    G = gradients(4, 0)
    factors = torch.tensor([[1.0], [1e-4], [30.0], [0.1]], dtype=torch.float64)
    one, other = nash(4)(G), nash(4)(G * factors)
    close(other / other.norm(), one / one.norm(), atol=1e-6)


def test_it_is_fairgrad_with_alpha_one() -> None:
    for seed in range(3):
        G = gradients(5, seed, 10.0)
        close(nash(5)(G), FairGrad(alpha=1.0)(G), atol=1e-6)


def test_between_updates_it_keeps_its_weights_in_units_of_the_lengths() -> None:
    first, second = gradients(3, 0, 3.0), gradients(3, 1, 10.0)
    rule = nash(3, update_every=2)
    v = nash(3).weights(Statistics.of(first)) * first.norm(dim=1)
    rule(first)
    expected = (v / second.norm(dim=1)) @ second
    expected = expected * min(1, 3**0.5 / float(expected.norm()))
    close(rule(second), expected, atol=1e-6)
    close(rule(second), nash(3)(second), atol=1e-6)


def test_opposite_gradients_have_no_bargain_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    g = gradients(2, 0)[:1]
    rule = nash(2)
    with caplog.at_level(logging.WARNING):
        for factor in (-1.0, -0.5, -1.0):
            assert float(rule(torch.cat((g, factor * g))).norm()) <= 2**0.5 + 1e-9
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "method=fairgrad method.alpha=1 solves the same equation" in caplog.text


def test_an_option_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="`update_every` must be at least 1, got 0"):
        NashMTL(num_tasks=2, update_every=0, num_iterations=20)
    with pytest.raises(ConfigError, match="`num_iterations` must be at least 1, got 0"):
        NashMTL(num_tasks=2, update_every=1, num_iterations=0)
