"""Seeds, random states, deterministic kernels."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices).

    Args:
        seed: In 0..2³²-1.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_deterministic(enabled: bool) -> None:
    """Restrict torch to deterministic kernels, or lift the restriction of an earlier run.

    Args:
        enabled: Whether an operation without a deterministic kernel is an error.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if enabled != torch.are_deterministic_algorithms_enabled():  # it imports torch's compiler
        torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.benchmark = False


def rng_state() -> dict[str, Any]:
    """Return the state of all generators: tensors, numbers and strings, loadable safely."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).copy()), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what :func:`rng_state` returned.

    Args:
        state: The state, on any device; CUDA states are restored for as many devices as there are
            now.
    """
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy(), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for index, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device_state.cpu(), index)


@contextmanager
def unchanged_generators() -> Iterator[None]:
    """Inside, random numbers may be drawn; afterwards all generators are as they were."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


def epoch_order(num: int, *words: int, seed: int, epoch: int) -> Tensor:
    """Return the order of examples in an epoch, a function of seed and epoch alone.

    Args:
        num: Examples in the split.
        *words: Tell apart several orders of one epoch; none for the one of most data sets.
        seed: Seed of the run.
        epoch: Epoch from 0.

    Returns:
        A permutation of 0..num-1, int64, shape ``[num]``, on the CPU.
    """
    return torch.randperm(num, generator=_generator(seed, epoch, *words))


def epoch_draws(num: int, num_draws: int, *, seed: int, epoch: int) -> Tensor:
    """Return random numbers for the augmentation in an epoch, a function of seed and epoch alone.

    Args:
        num: Examples in the epoch.
        num_draws: Numbers for each.
        seed: Seed of the run.
        epoch: Epoch from 0.

    Returns:
        Uniform in [0, 1), float32, shape ``[num, num_draws]``, on the CPU; row i belongs to the
        i-th example of the epoch's order.
    """
    return torch.rand(num, num_draws, generator=_generator(seed, epoch, 1))


def epoch_seeds(num: int, *, seed: int, epoch: int) -> Tensor:
    """Return a seed for every example of an epoch, a function of seed and epoch alone.

    Args:
        num: Examples in the epoch.
        seed: Seed of the run.
        epoch: Epoch from 0.

    Returns:
        Not negative, int64, shape ``[num]``, on the CPU; the i-th belongs to the i-th example of
        the epoch's order.
    """
    return torch.randint(2**63 - 1, (num,), generator=_generator(seed, epoch, 2))


def _generator(*words: int) -> torch.Generator:
    sequence = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(sequence[0]) % 2**63)
