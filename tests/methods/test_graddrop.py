"""GradDrop against the distribution that it draws from."""

import torch

from rotograd_cli.methods.graddrop import GradDrop
from tests.methods.common import normal


def test_the_expected_entries_weigh_the_signs_by_their_purity() -> None:
    G = normal(3, 40) * torch.tensor([[1.0], [3.0], [0.2]], dtype=torch.float64)
    torch.manual_seed(0)
    draws = torch.stack([GradDrop()(G) for _ in range(4000)])
    up, down = G.clamp_min(0).sum(0), G.clamp_max(0).sum(0)
    P = up / G.abs().sum(0)
    expected = P * up + (1 - P) * down
    error = ((P * (1 - P)).sqrt() * (up - down)) / 4000**0.5  # standard error of the mean
    assert ((draws.mean(0) - expected).abs() <= 5 * error + 1e-12).all()
    # every draw keeps all gradients of one sign, entry by entry
    assert ((draws - up).abs().minimum((draws - down).abs()) < 1e-12).all()
    mixed = (P > 0.3) & (P < 0.7)
    kept_up = ((draws - up).abs() < 1e-12)[:, mixed].double()
    assert mixed.sum() > 5
    assert torch.corrcoef(kept_up.mT).fill_diagonal_(0).abs().max() < 0.1  # draws of their own


def test_entries_of_one_sign_and_zeros_are_kept() -> None:
    G = torch.tensor([[1.0, -2.0, 0.0, 0.0], [3.0, -1.0, 0.0, 2.0]], dtype=torch.float64)
    expected = torch.tensor([4.0, -3.0, 0.0, 2.0], dtype=torch.float64)
    assert torch.equal(GradDrop()(G), expected)
