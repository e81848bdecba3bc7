"""Benchmarks on a CUDA device."""

import json
from pathlib import Path

import pytest
import torch

from rotograd_cli.bench.measure import peak_bytes
from tests.cli.conftest import Cli, cli
from tests.cli.test_bench import NAMES, TINY

__all__ = ["cli"]  # the fixture

pytestmark = pytest.mark.gpu


def test_the_peak_is_what_is_held_at_once_beyond_what_was_held_before() -> None:
    device = torch.device("cuda")
    kept = torch.zeros(10**6, device=device)

    def step() -> None:
        a = torch.empty(2**20, device=device)  # 4 MiB
        b = torch.empty(2**19, device=device)  # 2 MiB, together 6
        del a, b

    assert peak_bytes(step, device) == 6 * 2**20
    assert kept.numel() == 10**6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_contenders_are_measured(cli: Cli, tmp_path: Path, dtype: str) -> None:
    words = ("device=cuda", f"bench.dtype={dtype}", "bench.optimizers=true")
    result = cli("bench", *TINY[1:], *words)
    assert result.code == 0, result.err
    (path,) = tmp_path.rglob("bench.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [c["name"] for c in content["contenders"]] == NAMES
    assert content["machine"]["gpu"]
