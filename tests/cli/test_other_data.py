"""Data that changed after a run: said by `evaluate`, refused by `resume`."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import CHECKOUT, Cli, start
from .test_attack_runs import TINY

FROM_A_FILE = """
from rotograd_cli.data.synthetic import Synthetic

class FromAFile(Synthetic):
    def __init__(self, *, data_dir, **options):
        super().__init__(data_dir=data_dir, **options, seed=int((data_dir / "seed").read_text()))
"""
YAML = """
defaults: [synthetic]
_target_: from_a_file.FromAFile
"""
OWN = ("--config-dir", "conf")


@pytest.fixture
def files(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data root of a run in ``run``."""
    (tmp_path / "from_a_file.py").write_text(FROM_A_FILE)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "file.yaml").write_text(YAML)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "seed").write_text("0")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = cli(*train("hydra.run.dir=run"))
    assert result.code == 0, result.err
    yield tmp_path / "data"
    sys.modules.pop("from_a_file", None)


def train(*words: str) -> tuple[str, ...]:
    tiny = [word for word in TINY if word != "data=synthetic"]
    return ("train", *OWN, "data=file", "~data.seed", *tiny, *words)


def fingerprint(run: Path) -> str:
    return str(json.loads((run / "summary.json").read_text())["data_fingerprint"])


def test_an_evaluation_on_other_data_says_so_first_and_as_the_reason(
    cli: Cli, files: Path, tmp_path: Path
) -> None:
    before = cli("evaluate", "run=run", *OWN)
    assert "equal the run's record exactly." in before.out
    assert "fingerprint" not in before.out
    (files / "seed").write_text("1")
    assert cli(*train("hydra.run.dir=other")).code == 0
    then, now = fingerprint(tmp_path / "run"), fingerprint(tmp_path / "other")
    result = cli("evaluate", "run=run", *OWN)
    assert result.code == 0, result.err
    said = f"run was trained on data with fingerprint '{then}', those here have '{now}'"
    lines = result.out.strip().splitlines()
    assert lines[0] == f"Other data: {said}."
    assert lines[-1].endswith(f"values differ from the run's record: {said}.")
    assert "library version" not in result.out
    (files / "seed").write_text("0")  # as it was
    assert cli("evaluate", "run=run", *OWN).out == before.out


def test_a_run_is_not_gone_on_with_on_other_data(cli: Cli, files: Path, tmp_path: Path) -> None:
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    interrupted = {**summary, "status": "interrupted"}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(interrupted))
    then = fingerprint(tmp_path / "run")
    (files / "seed").write_text("1")
    before = contents(tmp_path / "run")
    for words in (
        ("train", "resume=run", *OWN),
        train("resume=auto", "hydra.run.dir=run"),
    ):
        result = cli(*words)
        assert result.code == 2
        (line,) = result.err.splitlines()
        assert f"run was trained on data with fingerprint '{then}', those here have" in line
        assert "restore the files in the data root data, name the right one with paths." in line
        assert contents(tmp_path / "run") == before
    (tmp_path / "restored").mkdir()
    (tmp_path / "restored" / "seed").write_text("0")
    again = cli("train", "resume=run", "paths.data_dir=restored", *OWN)
    assert again.code == 0, again.err


def test_a_run_without_a_fingerprint_is_evaluated_and_resumed_as_before(
    cli: Cli, files: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "summary.json"
    summary = json.loads(path.read_text())
    (files / "seed").write_text("1")
    for recorded in ({}, {"data_fingerprint": None}):
        old = {k: v for k, v in summary.items() if k != "data_fingerprint"}
        path.write_text(json.dumps({**old, **recorded, "status": "interrupted"}))
        result = cli("evaluate", "run=run", *OWN)
        assert result.code == 0, result.err
        assert "library version" in result.out
        assert "fingerprint" not in result.out
        assert cli("train", "resume=run", *OWN).code == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_killed_run_has_said_what_it_trained_on(tmp_path: Path) -> None:
    words = ("train", *TINY, "train.epochs=100000", "hydra.run.dir=run")
    process = start(*words, cwd=tmp_path, path=str(CHECKOUT), OMP_NUM_THREADS="1")
    while not (tmp_path / "run" / "checkpoints" / "last.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "running"
    assert len(fingerprint(tmp_path / "run")) == 16
