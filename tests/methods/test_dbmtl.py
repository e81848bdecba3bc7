"""DB-MTL against the published algorithm on plain autograd."""

import copy

import torch

from rotograd_cli.methods.dbmtl import DBMTL
from rotograd_cli.methods.engine.measurement import Measurement
from tests.methods.regression import (
    K,
    assert_same_network,
    data,
    descend,
    losses_of,
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
