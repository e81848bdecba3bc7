"""FairGrad against the paper's equation and torchjd."""

import itertools

import pytest
import torch

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.fairgrad import FairGrad
from rotograd_cli.methods.rule import Statistics
from tests.methods.common import close, gradients


def test_the_weights_solve_the_papers_equation() -> None:
    sizes = ((2, 1.0), (5, 30.0), (5, 1e3), (40, 1e3))
    for (num_tasks, ratio), alpha, seed in itertools.product(sizes, (0.5, 1, 2, 5), range(3)):
        G = gradients(num_tasks, seed, ratio)
        w = FairGrad(alpha=alpha).weights(Statistics.of(G))
        assert (w > 0).all()
        error = (G @ G.mT @ w) * w ** (1 / alpha) - 1
        assert float(error.abs().max()) < 1e-6


def test_it_is_torchjds_where_lengths_are_alike() -> None:
    from torchjd.aggregation import FairGradWeighting

    for seed, alpha in itertools.product(range(3), (0.5, 2.0)):
        G = gradients(4, seed, 2.0)
        close(FairGrad(alpha=alpha)(G), FairGradWeighting(alpha)(G @ G.mT) @ G, atol=1e-5)


def test_alpha_zero_is_the_mean() -> None:
    G = gradients(4, 0, 100.0)
    torch.testing.assert_close(FairGrad(alpha=0.0)(G), G.mean(0))


def test_a_negative_alpha_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`alpha` must be at least 0, got -1\.0"):
        FairGrad(alpha=-1.0)
