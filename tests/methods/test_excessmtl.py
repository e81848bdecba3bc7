"""ExcessMTL against the published algorithm on plain autograd."""

import copy
import math
from typing import Any

import pytest
import torch

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.excessmtl import ExcessMTL
from rotograd_cli.methods.rotate import Rotate
from tests.methods.regression import (
    K,
    assert_same_network,
    data,
    descend,
    networks,
    plain,
    sgd_step,
)


def model_with(step_size: float) -> Any:
    rule = ExcessMTL(num_tasks=K, step_size=step_size)
    return MultiTaskMethod(*networks(), rule, gradients="parameters").double()


def test_weights_are_the_published_ones_with_absent_tasks_and_after_a_restart() -> None:
    x, y = data()
    step_size = 0.3
    model = model_with(step_size)
    naive = copy.deepcopy(model)
    squares: list[Any] = [0.0] * K
    first: list[float | None] = [None] * K
    weights = [1.0] * K
    for step in range(6):
        without = [1] if step in (0, 3) else []
        if step == 2:  # as a resumed run
            state = copy.deepcopy(model.state_dict())
            model = model_with(step_size)
            model.load_state_dict(state)
        sgd_step(model, x, y, without)
        _, losses = plain(naive, x, y, without)
        backbone = list(naive.backbone.parameters())
        heads = list(naive.heads.parameters())
        G = {}
        for k, loss in enumerate(losses):
            if loss is None:
                continue
            parts = torch.autograd.grad(loss, backbone, retain_graph=True)
            g = torch.cat([part.flatten() for part in parts])
            squares[k] = squares[k] + g**2
            risk = float(g @ (g / torch.sqrt(squares[k] + 1e-7)))
            beginning = first[k]
            if beginning is None:
                first[k] = risk
            else:
                weights[k] *= math.exp(step_size * risk / beginning)
            G[k] = g
        total = sum(weights)
        weights = [weight / total * K for weight in weights]
        shared = sum(weights[k] * g for k, g in G.items())
        plain_sum = torch.stack([loss for loss in losses if loss is not None]).sum()
        of_heads = torch.autograd.grad(plain_sum, heads, allow_unused=True)
        sizes = [p.numel() for p in backbone]
        of_backbone = [g.view_as(p) for g, p in zip(shared.split(sizes), backbone, strict=True)]
        descend([*heads, *backbone], [*of_heads, *of_backbone])
        assert_same_network(model, naive)
        found = model.diagnostics()["excess_weight"]
        torch.testing.assert_close(found, torch.tensor(weights, dtype=torch.float64))


def test_gradients_at_the_features_are_refused() -> None:
    rule = ExcessMTL(num_tasks=K)
    with pytest.raises(ConfigError, match=r"must be parameters .* ExcessMTL, .* features;"):
        MultiTaskMethod(*networks(), rule)
    with pytest.raises(ConfigError, match=r"got features; choose another rule\.$"):
        Rotate(*networks(), 5, rule=rule)
    with pytest.raises(ConfigError, match="`step_size` must be more than 0, got 0"):
        ExcessMTL(num_tasks=K, step_size=0.0)
