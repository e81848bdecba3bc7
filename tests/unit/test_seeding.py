"""Random states and the order of examples."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rotograd_cli.training.seeding import (
    epoch_order,
    rng_state,
    seed_everything,
    set_deterministic,
    set_rng_state,
)


@pytest.fixture(autouse=True)
def _generators_as_before() -> Iterator[None]:
    state = rng_state()
    yield
    set_rng_state(state)


def draw() -> list[Any]:
    """Numbers of every generator, each in more than one way."""
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(3).tolist(),
        np.random.randn(),
        torch.rand(3).tolist(),
        torch.randn(3).tolist(),
    ]


def test_same_seed_gives_the_same_numbers_and_another_does_not() -> None:
    drawn = []
    for seed in (0, 0, 2**32 - 1):
        seed_everything(seed)
        drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))


def test_saved_state_continues_every_generator_exactly(tmp_path: Path) -> None:
    seed_everything(5)
    draw()  # leaves half a pair of normal numbers in Python's and NumPy's generators
    torch.save(rng_state(), tmp_path / "state.pt")
    expected = [draw(), draw()]
    seed_everything(6)
    draw()
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw(), draw()] == expected


def test_state_is_a_copy() -> None:
    seed_everything(5)
    state = rng_state()
    expected = draw()
    set_rng_state(state)
    assert draw() == expected
    set_rng_state(state)
    assert draw() == expected


@pytest.mark.gpu
def test_state_that_was_loaded_onto_the_device_can_be_restored(tmp_path: Path) -> None:
    torch.save(rng_state(), tmp_path / "state.pt")
    expected = [draw(), torch.rand(3, device="cuda").tolist()]
    set_rng_state(torch.load(tmp_path / "state.pt", map_location="cuda", weights_only=True))
    assert [draw(), torch.rand(3, device="cuda").tolist()] == expected


@pytest.mark.parametrize("num", [1, 2, 1_000])
def test_order_is_a_permutation(num: int) -> None:
    order = epoch_order(num, seed=0, epoch=3)
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(num))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    expected = epoch_order(100, seed=1, epoch=2)
    seed_everything(9)
    state = torch.get_rng_state()
    assert torch.equal(epoch_order(100, seed=1, epoch=2), expected)
    assert torch.equal(torch.get_rng_state(), state)
    orders = {
        tuple(epoch_order(100, seed=seed, epoch=epoch).tolist())
        for seed in (0, 1, 2, 2**32 - 1)
        for epoch in range(5)
    }
    assert len(orders) == 20  # (1, 2) and (2, 1) too


def test_deterministic_kernels_can_be_switched_off_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
