"""DB-MTL against the published algorithm on plain autograd."""

import copy
from typing import Any

import pytest
import torch

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.dbmtl import DBMTL
from rotograd_cli.methods.engine.measurement import Measurement
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rotate import Rotate
from tests.methods.regression import (
    K,
    assert_same_network,
    data,
    descend,
    losses_of,
    networks,
    on_network,
    plain,
    sgd_step,
)


def test_heads_descend_logarithms_and_the_backbone_their_gradients_at_the_longest_length() -> None:
    x, y = data()
    model = on_network(DBMTL(num_tasks=K))
    naive = copy.deepcopy(model)
    for _ in range(4):
        sgd_step(model, x, y)
        z, losses = plain(naive, x, y)
        logarithms = torch.stack(losses).log()
        G = [torch.autograd.grad(L, z, retain_graph=True)[0] for L in logarithms]
        longest = max(g.norm() for g in G)
        shared = sum(g / g.norm() * longest for g in G)
        heads = list(naive.heads.parameters())
        of_heads = torch.autograd.grad(logarithms.sum(), heads, retain_graph=True)
        of_backbone = torch.autograd.grad(z, list(naive.backbone.parameters()), shared)
        descend([*heads, *naive.backbone.parameters()], [*of_heads, *of_backbone])
        assert_same_network(model, naive)


def test_the_recorded_weight_is_that_of_the_gradient_of_the_loss_itself() -> None:
    x, y = data()
    model = on_network(DBMTL(num_tasks=K))
    measurement = Measurement("basic")
    model.backward(losses_of(model(x), y), one_head_per_loss=True, measurement=measurement)
    z, losses = plain(model, x, y)
    norms = torch.stack([torch.autograd.grad(L, z, retain_graph=True)[0].norm() for L in losses])
    values = torch.stack(losses).detach()
    measured = measurement.read()
    assert measured is not None
    torch.testing.assert_close(measured.of_tasks["grad_norm"], norms)
    torch.testing.assert_close(measured.of_tasks["weight"], (norms / values).max() / norms)


def averaging() -> Any:
    rule = DBMTL(num_tasks=K, beta=0.9)
    return MultiTaskMethod(*networks(), rule, gradients="parameters").double()


def test_moving_averages_over_the_parameters_are_the_published_ones() -> None:
    x, y = data()
    model = averaging()
    naive = copy.deepcopy(model)
    averages: list[Any] = [0.0] * K
    num = [0] * K
    for step in range(5):
        without = [1] if step in (0, 3) else []
        if step == 2:  # as a resumed run
            state = copy.deepcopy(model.state_dict())
            model = averaging()
            model.load_state_dict(state)
        sgd_step(model, x, y, without)
        _, losses = plain(naive, x, y, without)
        backbone = list(naive.backbone.parameters())
        heads = list(naive.heads.parameters())
        logarithms = {k: loss.log() for k, loss in enumerate(losses) if loss is not None}
        for k, loss in logarithms.items():
            num[k] += 1
            parts = torch.autograd.grad(loss, backbone, retain_graph=True)
            decay = 0.9 / num[k] ** 0.5
            flat = torch.cat([part.flatten() for part in parts])
            averages[k] = decay * averages[k] + (1 - decay) * flat
        longest = max(averages[k].norm() for k in logarithms)
        shared = sum(averages[k] / averages[k].norm() * longest for k in logarithms)
        total = torch.stack(list(logarithms.values())).sum()
        of_heads = torch.autograd.grad(total, heads, allow_unused=True)
        sizes = [p.numel() for p in backbone]
        of_backbone = [g.view_as(p) for g, p in zip(shared.split(sizes), backbone, strict=True)]
        descend([*heads, *backbone], [*of_heads, *of_backbone])
        assert_same_network(model, naive)


def test_averages_at_the_features_are_refused() -> None:
    rule = DBMTL(num_tasks=K, beta=0.9)
    with pytest.raises(ConfigError, match=r"`gradients` must be parameters .* DBMTL, .* features;"):
        MultiTaskMethod(*networks(), rule)
    with pytest.raises(ConfigError, match=r"got features; choose another rule\.$"):
        Rotate(*networks(), 5, rule=rule)  # rotations have no other gradients
    with pytest.raises(ConfigError, match="`beta` must be less than 1, got 1"):
        DBMTL(num_tasks=K, beta=1.0)
