"""Task losses against their formulas, written out example by example."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rotograd_cli import losses


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("num", [1, 5])
def test_cross_entropy_is_the_mean_negative_log_likelihood(num: int) -> None:
    logits, target = drawn(num, 4), torch.arange(num) % 4
    terms = [
        math.log(sum(math.exp(x) for x in row)) - row[k]
        for row, k in zip(logits.tolist(), target.tolist(), strict=True)
    ]
    loss = losses.cross_entropy(logits, target)
    assert float(loss) == pytest.approx(sum(terms) / num, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("num", [1, 5])
def test_binary_cross_entropy_is_the_mean_negative_log_likelihood(
    num: int, dtype: torch.dtype
) -> None:
    logits, target = drawn(num, 1), (torch.arange(num) % 2).to(dtype)
    terms = [
        math.log1p(math.exp(-x if y else x))
        for (x,), y in zip(logits.tolist(), target.tolist(), strict=True)
    ]
    loss = losses.binary_cross_entropy(logits, target)
    assert float(loss) == pytest.approx(sum(terms) / num, rel=1e-12)


@pytest.mark.parametrize("num", [1, 5])
def test_mean_squared_error_pairs_each_prediction_with_its_target(num: int) -> None:
    values, target = drawn(num, 1), drawn(num, seed=1)
    terms = [(x - y) ** 2 for (x,), y in zip(values.tolist(), target.tolist(), strict=True)]
    loss = losses.mean_squared_error(values, target)
    assert float(loss) == pytest.approx(sum(terms) / num, rel=1e-12)


@pytest.mark.parametrize("channels", [1, 2])
def test_mean_squared_error_of_maps_is_the_mean_over_every_pixel(channels: int) -> None:
    # one channel is the case that squeezing would broadcast to [N, N, H, W]
    values, target = drawn(3, channels, 2, 5), drawn(3, channels, 2, 5, seed=1)
    pairs = zip(values.flatten().tolist(), target.flatten().tolist(), strict=True)
    expected = sum((x - y) ** 2 for x, y in pairs) / values.numel()
    loss = losses.mean_squared_error(values, target)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "loss", [losses.binary_cross_entropy, losses.mean_squared_error], ids=["bce", "mse"]
)
def test_large_logits_neither_overflow_nor_change_the_dtype(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    value = loss(torch.full((2, 1), 1e4), torch.tensor([0, 1]))
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert value.isfinite()
