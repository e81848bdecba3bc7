"""ScaleOnly against a naive loop and RotoGrad without rotations."""

import copy

import pytest
import torch

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods import RotoGrad
from rotograd_cli.methods.scaleonly import ScaleOnly
from tests.methods.regression import (
    D,
    K,
    assert_same_network,
    data,
    descend,
    losses_of,
    networks,
    on_network,
    plain,
    sgd_step,
    start_value,
)


def test_it_equals_a_naive_loop() -> None:
    x, y = data()
    model = on_network(ScaleOnly(num_tasks=K, burn_in_period=2))
    naive = copy.deepcopy(model)
    seen: list[list[float]] = [[] for _ in range(K)]
    for t in range(6):
        without = [2] if t == 1 else []
        there = [k for k in range(K) if k not in without]
        z, losses = plain(naive, x, y, without)
        g = {k: torch.autograd.grad(losses[k], z, retain_graph=True)[0] for k in there}
        norms = {k: float(g[k].norm()) for k in there}
        for k in there:
            seen[k].append(norms[k])
        alphas = {k: norms[k] / start_value(seen[k], 2) for k in there}
        C = sum(alphas[k] * norms[k] for k in there) / sum(alphas.values())
        shared = torch.stack([C * g[k] / norms[k] for k in there]).sum(0)
        backbone, heads = list(naive.backbone.parameters()), list(naive.heads.parameters())
        joint = torch.stack([losses[k] for k in there]).sum()
        of_heads = torch.autograd.grad(joint, heads, retain_graph=True, allow_unused=True)
        descend(backbone, torch.autograd.grad(z, backbone, shared))
        descend(heads, of_heads)
        sgd_step(model, x, y, without)
        assert_same_network(model, naive)


def test_it_is_rotograd_whose_rotations_stay_at_the_identity() -> None:
    x, y = data()
    model = on_network(ScaleOnly(num_tasks=K, burn_in_period=3))
    rotograd = RotoGrad(*networks(), [D], burn_in_period=3, init="identity").double()
    for _ in range(6):
        sgd_step(model, x, y)
        rotograd.zero_grad()
        rotograd.backward(losses_of(rotograd(x), y))
        network = list(rotograd.model_parameters())
        descend(network, [p.grad for p in network])
        assert_same_network(model, rotograd)


def test_a_negative_burn_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="`burn_in_period` must be at least 0, got -1"):
        ScaleOnly(num_tasks=K, burn_in_period=-1)
