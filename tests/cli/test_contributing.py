"""The examples of CONTRIBUTING.md, docs/extending.md and docs/methods.md work as printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rotograd_cli.errors import ConfigError

from .conftest import CHECKOUT, Cli
from .test_train import SMOKE, summary


def blocks(language: str, page: str = "CONTRIBUTING.md") -> list[str]:
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (method,) = blocks("python")
    (dataset,) = blocks("python", "docs/extending.md")
    (tmp_path / "equalnorm_example.py").write_text(method)
    (tmp_path / "noise_example.py").write_text(dataset)
    (of_method,) = blocks("yaml")
    (of_data,) = blocks("yaml", "docs/extending.md")
    files = {
        "method/equalnorm.yaml": of_method.replace(
            "rotograd_cli.methods.equalnorm", "equalnorm_example"
        ),
        "data/noise.yaml": of_data.replace("rotograd_cli.data.noise", "noise_example"),
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


def test_the_method_combines_the_rows_of_a_matrix(examples: Path) -> None:
    from equalnorm_example import EqualNorm  # type: ignore[import-not-found]

    G = torch.tensor([[2.0, 0.0], [0.0, 0.5], [0.0, 0.0]])
    mean = 1.25  # of the two that take part
    assert torch.equal(EqualNorm(strength=1)(G), torch.tensor([mean, mean]))
    assert torch.equal(EqualNorm(strength=0)(G), G.sum(0))
    with pytest.raises(ConfigError, match="`strength` must be at most 1, got 2"):
        EqualNorm(strength=2)


def test_a_rule_is_called_in_a_notebook() -> None:
    (notebook,) = blocks("python", "docs/methods.md")
    exec(notebook, {})


def test_every_line_of_rotate_trains(cli: Cli, tmp_path: Path) -> None:
    *_, commands = blocks("bash", "docs/methods.md")
    for line in commands.splitlines():
        words = line.partition("#")[0].split()
        assert words.pop(0) == "rotograd"
        result = cli(*words, *SMOKE, "hydra.run.dir=runs/${hydra.job.override_dirname}")
        assert result.code == 0, result.err
    table = cli("table", "runs=runs/*")
    for label in ("Rotate + PCGrad", "Rotate + CAGrad", "Rotate + IMTL-G", "Rotate"):
        assert label in table.out


@pytest.mark.slow
def test_every_line_of_methods_with_values_by_task_trains(cli: Cli) -> None:
    *commands, _ = blocks("bash", "docs/methods.md")
    for number, line in enumerate("".join(commands).splitlines()):
        result = cli(*shlex.split(line)[1:], *SMOKE, f"hydra.run.dir=runs/{number}")
        assert result.code == 0, result.err


@pytest.mark.slow
def test_the_method_passes_ruff_mypy_and_every_contract(tmp_path: Path) -> None:
    """In a copy of the checkout, as a contributor would add it.

    The contracts: every kind of gradients, a NaN in one task, tasks without a gradient, and two
    processes that take the steps of one.
    """
    files = subprocess.run(
        ["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((CHECKOUT / name).read_bytes())
    (tmp_path / "rotograd_cli/methods/equalnorm.py").write_text(blocks("python")[0])
    (tmp_path / "conf/method/equalnorm.yaml").write_text(blocks("yaml")[0])
    contracts = ["tests/contract/test_methods.py", "tests/contract/test_starvation.py"]
    for command in (
        ["ruff", "check", "rotograd_cli"],
        ["ruff", "format", "--check", "rotograd_cli"],
        ["mypy"],
        ["pytest", "-m", "", "-k", "equalnorm", *contracts, "tests/contract/test_ranks.py"],
        ["pytest", "tests/cli/test_configs.py"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            env={**os.environ, "ROTOGRAD_TEST_RANKS_OF": "equalnorm"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
