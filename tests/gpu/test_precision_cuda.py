"""16-bit arithmetic, compiled networks and several ranks on CUDA devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rotograd_cli.data.base import Batch
from rotograd_cli.training.precision import LossScale
from tests.cli.conftest import CHECKOUT, SMOKE, Cli, cli
from tests.cli.test_resume import SHORT
from tests.records import records
from tests.unit import test_precision
from tests.unit.test_precision import ROTATING, SCALES, Run, network
from tests.waiting import PATIENCE_S

__all__ = ["cli"]  # the fixture

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


@pytest.mark.parametrize("hidden", [(), (6,)])
@pytest.mark.parametrize("method", ROTATING)
def test_the_rotation_step_is_the_same_whatever_the_loss_scale(
    method: str, hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = test_precision.batch()
    targets = {name: target.to(DEVICE) for name, target in batch.targets.items()}
    moved = Batch(batch.inputs.to(DEVICE), targets)
    monkeypatch.setattr(test_precision, "batch", lambda: moved)
    found = []
    for scale in SCALES:
        run, loss_scale = Run(network(method, hidden, "fp16").to(DEVICE)), LossScale(scale)
        for _ in range(3):
            loss_scale.take(run.model, run.step)
        found.append(run.model.get_parameter("rotations.free_parameters").detach())
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("words", [("precision=bf16",), ("precision=fp16",), ("compile=true",)])
def test_a_run_trains(cli: Cli, tmp_path: Path, words: tuple[str, ...]) -> None:
    result = cli("train", *SMOKE, f"device={DEVICE}", *words, "hydra.run.dir=run")
    assert result.code == 0, result.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert all(abs(value) < 1e6 for value in summary["metrics"].values())  # and no NaN


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_train_as_one(cli: Cli, tmp_path: Path) -> None:
    words = [word for word in SHORT if not word.startswith("device=")]
    assert cli("train", *words, f"device={DEVICE}", "hydra.run.dir=alone").code == 0
    job = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "rotograd_cli", "train", *words),
            *(f"device={DEVICE}", "hydra.run.dir=two"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert job.returncode == 0, job.stderr
    for found, wanted in zip(records(tmp_path / "two"), records(tmp_path / "alone"), strict=True):
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-4)  # float32, other kernels
