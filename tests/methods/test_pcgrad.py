"""PCGrad against a naive loop over the vectors."""

import torch
from torch import Tensor

from rotograd_cli.methods.pcgrad import PCGrad
from tests.methods.common import CASES, close, conflict_free, gradients, opposed


def naive_pcgrad(G: Tensor) -> Tensor:
    total = torch.zeros_like(G[0])
    for i in range(len(G)):
        g = G[i].clone()
        for j in torch.randperm(len(G)).tolist():
            if j != i and (g @ G[j]) < 0:
                g -= (g @ G[j]) / (G[j] @ G[j]) * G[j]
        total += g
    return total


def test_it_equals_a_naive_loop_over_the_vectors() -> None:
    for case in CASES:
        G = gradients(*case)
        for draw in range(3):
            torch.manual_seed(draw)
            expected = naive_pcgrad(G)
            torch.manual_seed(draw)
            close(PCGrad()(G), expected, atol=1e-12, message=case)


def test_the_order_is_drawn_anew_in_every_step() -> None:
    G = opposed(5, 3)
    rule = PCGrad()
    torch.manual_seed(0)
    first, second = rule(G), rule(G)
    torch.manual_seed(0)
    assert torch.equal(first, rule(G))
    assert not torch.allclose(first, second)


def test_gradients_without_conflict_are_added() -> None:
    G = conflict_free(4)
    torch.testing.assert_close(PCGrad()(G), G.sum(0))
