"""A run directory as commit 6f00429 wrote it: evaluated, tabled, resumed and found again.

``tests/data/run_6f00429.tar.xz`` holds a run of two epochs, whose state after the first epoch is
``checkpoints/epoch_00001.pt``. The words that it was trained with are in its ``summary.json``.
"""

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.records import records

from .conftest import Cli

ARCHIVE = Path(__file__).parents[1] / "data" / "run_6f00429.tar.xz"
TABLE = """
name: mini
title: Mini
tasks: [task_0, task_1]
seeds: 1
rows:
  vanilla: {{label: Vanilla, overrides: [{words}], shown: true}}
columns:
  mse: {{metric: task_0/mse}}
"""


@pytest.fixture
def run(cli: Cli, tmp_path: Path) -> Path:
    """The run, ``run`` in the working directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return (tmp_path / "run_6f00429").rename(tmp_path / "run")


def summary(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return content


def interrupt(run: Path) -> None:
    """As if it had been killed after its first epoch."""
    (run / "summary.json").unlink()
    (run / "checkpoints" / "last.pt").unlink()
    shutil.copy(run / "checkpoints" / "epoch_00001.pt", run / "checkpoints" / "last.pt")


def test_it_is_evaluated_to_the_numbers_that_it_recorded(cli: Cli, run: Path) -> None:
    assert "schema_version" not in summary(run)
    result = cli("evaluate", "run=run")
    assert result.code == 0, result.err
    rows = [line.split("│")[2:4] for line in result.out.splitlines() if line.startswith("│")]
    pairs = [row for row in rows if re.search(r"\d", row[1])]  # it recorded fewer metrics
    assert len(pairs) == 10
    for now, recorded in pairs:  # the run was of another CPU, whose kernels may round otherwise
        assert float(now) == pytest.approx(float(recorded), rel=1e-5)


def test_it_is_a_row_of_a_table(cli: Cli, run: Path) -> None:
    result = cli("table", "runs=run")
    assert result.code == 0, result.err
    assert "Vanilla " in result.out
    assert f"{summary(run)['metrics']['test/task_1/mse']:.3f}" in result.out


def test_it_is_resumed_to_the_end_that_it_came_to(cli: Cli, run: Path) -> None:
    before = summary(run)
    expected = records(run)
    interrupt(run)
    result = cli("train", "resume=run")
    assert result.code == 0, result.err
    after = summary(run)
    assert after["metrics"] | before["metrics"] == pytest.approx(after["metrics"], rel=1e-5)
    assert after["resumed_at_steps"] == [2]
    for found, wanted in zip(records(run), expected, strict=True):
        wanted.pop("train/model_lr", None)  # train/lr by now
        same = {key: found[key] for key in wanted}  # later versions record more
        assert same == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_it_is_found_by_its_configuration(cli: Cli, run: Path) -> None:
    words = summary(run)["overrides"]
    folder = Path("outputs/synthetic/vanilla/before")
    folder.parent.mkdir(parents=True)
    run.rename(folder)
    result = cli("train", *words, "resume=auto")
    assert result.code == 0, result.err
    assert f"{folder} is finished." in result.err
    result = cli("train", *words, "resume=auto", "train.epochs=3")
    assert str(folder) not in result.err


def test_reproduce_takes_it_under_the_name_that_it_has(cli: Cli, run: Path, tmp_path: Path) -> None:
    words = summary(run)["overrides"]
    (tmp_path / "conf" / "table").mkdir(parents=True)
    quoted = ", ".join(f"'{word}'" for word in words)
    (tmp_path / "conf" / "table" / "mini.yaml").write_text(TABLE.format(words=quoted))
    (tmp_path / "outputs" / "cells").mkdir(parents=True)
    run.rename(tmp_path / "outputs" / "cells" / "vanillamtl-a07fd1c2b3e4f596")
    result = cli("reproduce", "table=mini", "--config-dir", "conf")
    assert result.code == 0, result.err
    assert [path.name for path in (tmp_path / "outputs" / "cells").glob("*/")] == [
        "vanillamtl-a07fd1c2b3e4f596"
    ]
