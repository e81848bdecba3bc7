"""Runs of the command line: in this process for speed, in a real one where that matters."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rotograd_cli.cli import main

SMOKE = ("debug=smoke", "logger=none", "train.eval_batch_size=20")
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def without_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away what the shell that the tests run in may export."""
    monkeypatch.delenv("ROTOGRAD_DATA", raising=False)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Calls ``main`` in an empty working directory, ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))  # Hydra reads it, so main sets it
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # set by main; taken back after the test

    def run(*words: str) -> Result:
        capsys.readouterr()
        code = main(words)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def run_in(folder: Path, *arguments: str) -> None:
    """Call ``main`` in a folder, for fixtures that live longer than a test; it must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", list(sys.argv))  # Hydra reads it, so main sets it
        patch.setenv("HYDRA_FULL_ERROR", "1")  # set by main; taken back afterwards
        patch.delenv("ROTOGRAD_DATA", raising=False)
        assert main(arguments) == 0


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a finished run of two steps, for all tests."""
    folder = tmp_path_factory.mktemp("smoke")
    run_in(folder, "train", *SMOKE, "hydra.run.dir=run")
    return folder / "run"


@pytest.fixture
def smoke_run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, ``run`` in ``tmp_path``."""
    return shutil.copytree(trained, tmp_path / "run")


def environment() -> dict[str, str]:
    """The environment of processes that fixtures start before the variable is taken away."""
    return {key: value for key, value in os.environ.items() if key != "ROTOGRAD_DATA"}


def start(*words: str, cwd: Path, path: str = str(CHECKOUT), **env: str) -> "subprocess.Popen[str]":
    """The command in a process (group) of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "rotograd_cli", *words],
        cwd=cwd,
        env={**environment(), "PYTHONPATH": path, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
