"""GO4Align against the published formulas, its groups against scikit-learn."""

import copy

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.go4align import GO4Align, group_means
from rotograd_cli.methods.rule import Losses
from tests.methods.common import normal
from tests.methods.regression import K, assert_same_network, data, naive_step, on_network, sgd_step


def test_everything_descends_the_losses_weighted_by_group() -> None:
    x, y = data()
    for num_groups in (1, 2, K):
        model = on_network(GO4Align(num_tasks=K, num_groups=num_groups, step_size=0.3))
        naive = copy.deepcopy(model)
        share = torch.full((K,), 1 / K, dtype=torch.float64)

        def weighted(losses: list[Tensor], num_groups: int = num_groups) -> Tensor:
            nonlocal share
            L = torch.stack(losses)
            values = L.detach()
            share = share * torch.exp(-0.3 * values)
            share = share / share.sum()
            indicators = values.sum() / values * share
            found = KMeans(num_groups, n_init=20).fit(indicators.numpy()[:, None])
            weights = torch.from_numpy(found.cluster_centers_[found.labels_, 0])
            return (weights * L).sum()

        for _ in range(4):
            sgd_step(model, x, y)
            naive_step(naive, weighted, x, y)
        assert_same_network(model, naive)


def test_groups_are_the_best_ones() -> None:
    for seed in range(20):
        values = normal(12, seed=seed).exp()
        for num_groups in (1, 2, 3, 5, 11, 12, 40):
            means = group_means(values, num_groups)
            error = float((values - means).square().sum())
            assert len(means.unique()) == min(num_groups, 12)
            if num_groups < 12:
                found = KMeans(num_groups, n_init=30, random_state=0).fit(values.numpy()[:, None])
                assert error <= found.inertia_ * (1 + 1e-9)
                if np.isclose(error, found.inertia_, rtol=1e-9):
                    centers = found.cluster_centers_[found.labels_, 0]
                    np.testing.assert_allclose(means.numpy(), centers, rtol=1e-9)


def test_losses_of_any_size_have_finite_weights() -> None:
    rule = GO4Align(num_tasks=K, num_groups=2)
    present = torch.ones(K, dtype=torch.bool)
    for values in ([1e9, 1e9, 1e9], [1e9, 1.0, 1.0], [1.0, 1e12, 1.0], [1e12, 1e-3, 1.0]):
        factors = rule.factors(Losses(torch.tensor(values), present))
        assert factors.isfinite().all(), values
        assert rule.share.isfinite().all()
    assert not rule.factors(Losses(torch.zeros(K), ~present)).any()  # nobody takes part


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="`num_groups` must be at least 1, got 0"):
        GO4Align(num_tasks=K, num_groups=0)
