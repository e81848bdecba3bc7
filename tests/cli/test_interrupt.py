"""Ctrl-C, in real processes."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.forked import Forked
from tests.waiting import PATIENCE_S, wait_for

from .conftest import start

LONG = ("logger=none", "device=cpu", "train.epochs=10000", "train.limit_batches=5")
LINE = "Interrupted; a run that had begun keeps its last checkpoint."


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_an_interrupted_run_keeps_its_last_checkpoint(tmp_path: Path) -> None:
    words = ("train.limit_eval_batches=1", "train.eval_batch_size=50", "hydra.run.dir=run")
    process = Forked(("train", *LONG, *words), tmp_path, {"OMP_NUM_THREADS": "1"})
    run = tmp_path / "run"
    wait_for((run / "checkpoints" / "last.pt").exists, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "continue with: rotograd train resume=run" in err.splitlines()[-1]
    assert LINE not in err
    assert "Traceback" not in err
    assert group_is_gone(process.pid)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["epochs"] >= 1
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert state["state"]["epoch"] >= 1
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize(
    "imported", ["antlr4", "torch.nn", pytest.param("torch._dynamo", marks=pytest.mark.slow)]
)
def test_an_interrupt_before_training_leaves_nothing(tmp_path: Path, imported: str) -> None:
    words = ("train", *LONG, "data.partners=40")
    process = start(*words, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert process.stderr is not None
    assert any(line.rstrip().endswith(f" {imported}") for line in process.stderr)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == LINE
    assert "Traceback" not in err
    assert group_is_gone(process.pid)
    if "seed 0" not in err:  # it had not begun
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_sweep_starts_no_further_cell(tmp_path: Path) -> None:
    process = start("train", "-m", *LONG, "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    wait_for((tmp_path / "sweep" / "0" / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert LINE not in err
    assert "Traceback" not in err
    summary = json.loads((tmp_path / "sweep" / "0" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert not (tmp_path / "sweep" / "1").exists()
    assert "Continue the sweep with: rotograd train -m " in err.splitlines()[-1]
    assert err.splitlines()[-1].endswith(" hydra.sweep.dir=sweep resume=auto")


@pytest.mark.slow
def test_an_interrupt_leaves_no_process_of_wandb(tmp_path: Path) -> None:
    words = [word for word in LONG if word != "logger=none"]
    process = start("train", *words, "hydra.run.dir=run", cwd=tmp_path, WANDB_MODE="offline")
    wait_for((tmp_path / "run" / "checkpoints" / "last.pt").exists, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    wait_for(lambda: group_is_gone(process.pid))
