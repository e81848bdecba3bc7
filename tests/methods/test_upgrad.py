"""UPGrad against projections by non-negative least squares."""

import torch
from scipy.optimize import nnls
from torch import Tensor

from tests.methods.common import CASES, close, conflict_free, opposed, units, upgrad


def projected(g: Tensor, G: Tensor) -> Tensor:
    """Nearest direction that harms no task: g plus the nearest point of the cone of G's rows."""
    lengths, _ = nnls(G.mT.numpy(), -g.numpy(), maxiter=1000)
    return g + torch.from_numpy(lengths) @ G


def test_it_is_the_mean_of_the_projections_and_harms_no_task() -> None:
    for num_tasks, seed, ratio in CASES:
        G = opposed(num_tasks, seed, ratio)
        u = units(G)
        assert ratio == 1 or (u @ G.mean(0)).min() < 0  # so that the test can fail
        d = upgrad()(G)
        close(d, torch.stack([projected(g, u) for g in G]).mean(0), atol=1e-6)
        assert float((u @ d).min()) >= -1e-6 * float(d.norm())


def test_gradients_without_conflict_give_their_mean() -> None:
    G = conflict_free(4)
    close(upgrad()(G), G.mean(0), rtol=1e-6, atol=1e-9)
