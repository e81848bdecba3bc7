"""The examples of CONTRIBUTING.md work as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import CHECKOUT, Cli
from .test_train import SMOKE, summary

IMPORTS = """
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, MultiTaskDataset, Split, hash_tensors
from rotograd_cli.tasks.losses import mean_squared_error
from rotograd_cli.tasks.metrics import mse
from rotograd_cli.tasks import Task, select_tasks


"""
NOISE = "_target_: noise_example.Noise\n_partial_: true\nseed: 0\n"


def blocks(language: str) -> list[str]:
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    method, dataset = blocks("python")
    (tmp_path / "equalnorm_example.py").write_text(method)
    (tmp_path / "noise_example.py").write_text(IMPORTS + dataset)
    (yaml,) = blocks("yaml")
    files = {
        "method/equalnorm.yaml": yaml.replace(
            "rotograd_cli.methods.equalnorm", "equalnorm_example"
        ),
        "data/noise.yaml": NOISE,
    }
    for name, content in files.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_examples_train_together(cli: Cli, examples: Path) -> None:
    words = ("method=equalnorm", "data=noise", "backbone=mlp", "hydra.run.dir=run")
    result = cli("train", "--config-dir", "conf", *SMOKE, *words)
    assert result.code == 0, result.err
    assert summary(examples / "run")["method"] == "EqualNorm"
    assert {"test/mean/mse", "test/spread/mse"} <= set(summary(examples / "run")["metrics"])


@pytest.mark.slow
def test_the_method_passes_ruff_mypy_and_the_contract_tests(tmp_path: Path) -> None:
    """In a copy of the checkout, as a contributor would add it."""
    files = subprocess.run(
        ["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((CHECKOUT / name).read_bytes())
    (tmp_path / "rotograd_cli/methods/equalnorm.py").write_text(blocks("python")[0])
    (tmp_path / "conf/method/equalnorm.yaml").write_text(blocks("yaml")[0])
    for command in (
        ["ruff", "check", "rotograd_cli"],
        ["ruff", "format", "--check", "rotograd_cli"],
        ["mypy"],
        ["pytest", "tests/contract/test_methods.py", "tests/cli/test_configs.py"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
