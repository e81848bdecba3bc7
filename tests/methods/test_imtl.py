"""IMTL-L against torchjd, and IMTL against its two halves."""

import copy

import pytest
import torch
from torchjd import aggregation, scalarization

from rotograd_cli.methods.imtl import IMTL
from rotograd_cli.methods.imtll import IMTLL, LearnedScales
from rotograd_cli.methods.rule import Losses
from tests.methods.regression import (
    K,
    assert_same_network,
    data,
    descend,
    on_network,
    plain,
    sgd_step,
)

PRESENT = torch.ones(K, dtype=torch.bool)


def test_imtl_l_is_torchjds_trained_jointly() -> None:
    x, y = data()
    model = on_network(IMTLL(num_tasks=K))
    naive, oracle = copy.deepcopy(model), scalarization.IMTLL(K).double()
    for _ in range(5):
        sgd_step(model, x, y)
        everything = [*naive.model_parameters(), oracle.log_scale]
        total = oracle(torch.stack(plain(naive, x, y)[1]))
        descend(everything, torch.autograd.grad(total, everything))
        torch.testing.assert_close(model.rule.log_scale, oracle.log_scale, rtol=1e-11, atol=1e-13)
        assert_same_network(model, naive)


def test_imtl_is_imtl_l_with_imtl_g_at_the_features() -> None:
    x, y = data()
    model = on_network(IMTL(num_tasks=K))
    naive, scales = copy.deepcopy(model), torch.zeros(K, dtype=torch.float64, requires_grad=True)
    for _ in range(5):
        sgd_step(model, x, y)
        z, losses = plain(naive, x, y)
        scaled = scales.exp() * torch.stack(losses) - scales
        G = torch.stack([torch.autograd.grad(L, z, retain_graph=True)[0] for L in scaled])
        shared = aggregation.IMTLG()(G.flatten(1)).view_as(z)
        heads = [*naive.heads.parameters(), scales]
        of_heads = torch.autograd.grad(scaled.sum(), heads, retain_graph=True)
        of_backbone = torch.autograd.grad(z, list(naive.backbone.parameters()), shared)
        descend([*heads, *naive.backbone.parameters()], [*of_heads, *of_backbone])
        torch.testing.assert_close(model.rule.log_scale, scales, rtol=1e-9, atol=1e-11)
        assert_same_network(model, naive, rtol=1e-7, atol=1e-9)  # torchjd's pseudo-inverse


@pytest.mark.parametrize("value", [0.0, -2.0, float("inf"), float("nan")])
def test_a_loss_without_an_optimum_leaves_its_scale_alone(value: float) -> None:
    rule: LearnedScales
    for rule in (IMTLL(num_tasks=K), IMTL(num_tasks=K)):
        losses = Losses(torch.tensor([0.2, value, 30.0]), PRESENT)
        (gradient,) = rule.learn_from_losses(losses).values()
        torch.testing.assert_close(gradient, torch.tensor([0.2 - 1, 0, 30 - 1]))
