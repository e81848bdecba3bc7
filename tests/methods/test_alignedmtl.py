"""Aligned-MTL against the singular value decomposition."""

from typing import Any

import pytest
import torch

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.alignedmtl import AlignedMTL
from tests.methods.common import CASES, DIM, close, gradients, normal


def test_it_is_the_mean_after_the_singular_values_became_one() -> None:
    for case in CASES:
        G = gradients(*case)
        U, S, V = torch.linalg.svd(G, full_matrices=False)
        aligned = (U @ V).mean(0)
        result = {mode: AlignedMTL(scale_mode=mode)(G) for mode in ("min", "median", "rmse")}
        close(result["min"], S.min() * aligned, rtol=1e-6, atol=1e-10)
        close(result["median"], S.square().median().sqrt() * aligned, rtol=1e-6, atol=1e-10)
        close(result["rmse"], S.square().mean().sqrt() * aligned, rtol=1e-6, atol=1e-10)


def test_of_dependent_gradients_it_takes_the_singular_values_that_are_not_zero() -> None:
    """In float32 too, where the others are rounding: their inverses would end all progress."""
    G = normal(4, 2) @ normal(2, DIM, seed=1)
    U, S, V = torch.linalg.svd(G, full_matrices=False)
    expected = (S[1] * U[:, :2] @ V[:2]).mean(0)
    for dtype in (torch.float32, torch.float64):
        close(AlignedMTL(scale_mode="min")(G.to(dtype)), expected.to(dtype), atol=1e-5)


def test_another_mode_is_refused() -> None:
    mode: Any = "max"
    with pytest.raises(ConfigError, match="`scale_mode` must be min or median or rmse, got 'max'"):
        AlignedMTL(scale_mode=mode)
