"""IMTL-G against its claim, the paper's formula and least squares."""

import numpy as np
import pytest
import torch

from rotograd_cli.methods.imtlg import IMTLG
from rotograd_cli.methods.rule import Statistics
from tests.methods.common import CASES, DIM, close, gradients, normal, units


def test_projections_onto_all_directions_are_equal_and_weights_have_sum_one() -> None:
    for case in CASES:
        G = gradients(*case)
        w = IMTLG().weights(Statistics.of(G))
        projections = units(G) @ (w @ G)
        expected = projections[0].expand(len(G))
        torch.testing.assert_close(projections, expected, rtol=1e-9, atol=0)
        assert float(w.sum()) == pytest.approx(1)


def test_it_is_the_papers_formula() -> None:
    for case in CASES:
        G = gradients(*case)
        u = units(G)
        D, U = G[0] - G[1:], u[0] - u[1:]
        others = torch.linalg.solve((D @ U.mT).mT, U @ G[0])  # equation 6
        w = torch.cat((1 - others.sum(0, keepdim=True), others))
        close(IMTLG()(G), w @ G, rtol=1e-7, atol=1e-11, message=case)


def test_aligned_gradients_give_their_harmonic_mean() -> None:
    """All weights times lengths are equal, and the weights have sum one."""
    u = normal(DIM)
    lengths = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    G = lengths.unsqueeze(1) * u
    expected = len(G) / (1 / lengths).sum() * u
    for dtype in (torch.float32, torch.float64):
        close(IMTLG()(G.to(dtype)), expected.to(dtype), rtol=1e-5, atol=1e-6)


def test_dependent_gradients_are_projected_onto_as_equally_as_can_be() -> None:
    a, b = gradients(2, 3)
    b = b - (a @ b) * a
    for dtype in (torch.float32, torch.float64):
        assert not IMTLG()(torch.stack((a, -2 * a)).to(dtype)).any()
        result = IMTLG()(torch.stack((a, -a, b)).to(dtype))
        close(result, b.to(dtype), rtol=1e-5, atol=1e-6)
    G = normal(4, 2) @ normal(2, DIM, seed=1)
    u = units(G).numpy()
    d, _, _, _ = np.linalg.lstsq(u, np.ones(4), rcond=1e-10)  # nearest to equal
    v = np.linalg.pinv(u @ u.T, rcond=1e-10) @ np.ones(4)
    total = float((torch.from_numpy(v) / G.norm(dim=1)).sum())
    torch.testing.assert_close(IMTLG()(G), torch.from_numpy(d) / total)
