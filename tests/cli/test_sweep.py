"""Sweeps: every cell for itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Forked
from tests.records import records
from tests.waiting import PATIENCE_S

from .conftest import SMOKE, Cli

SMALL = (*SMOKE, "tasks=[left,sum]", "data.partners=1")


def cells(sweep: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/summary.json")}


def test_every_cell_has_its_directory_and_equals_a_run_of_its_own(cli: Cli, tmp_path: Path) -> None:
    grid = ("method=rotograd,vanilla", "seed=0,1")
    result = cli("train", *SMALL, "-m", *grid, "hydra.sweep.dir=sweep")
    assert result.code == 0, result.err
    found = cells(tmp_path / "sweep")
    assert sorted(found) == ["0", "1", "2", "3"]
    assert {cell["status"] for cell in found.values()} == {"finished"}
    assert [(c["method"], c["seed"]) for _, c in sorted(found.items())] == [
        ("RotoGrad", 0),
        ("RotoGrad", 1),
        ("VanillaMTL", 0),
        ("VanillaMTL", 1),
    ]
    assert "4 cells on multidigits: test metrics" in result.out
    # the last cells came after others in the same process
    for number, words in (("3", ("method=vanilla", "seed=1")), ("1", ("seed=1",))):
        assert cli("train", *SMALL, *words, f"hydra.run.dir=alone{number}").code == 0
        alone = tmp_path / f"alone{number}"
        cell = tmp_path / "sweep" / number
        assert records(alone) == records(cell)
        assert (alone / "config.yaml").read_bytes() == (cell / "config.yaml").read_bytes()


def test_a_wrong_cell_fails_alone(cli: Cli, tmp_path: Path) -> None:
    words = ("-m", "method.rotation_shape=30", "backbone.num_features=20,50,abc,40")
    result = cli("train", *SMALL, *words, "hydra.sweep.dir=sweep")
    assert result.code == 1
    found = cells(tmp_path / "sweep")
    assert [found[n]["status"] for n in "0123"] == ["failed", "finished", "failed", "finished"]
    assert "choose a size of at most 20" in found["0"]["error"]
    assert "backbone.num_features=20" in found["0"]["overrides"]
    assert "Traceback" not in result.err
    assert result.err.count("failed: ") == 4  # when it happens, and again at the end
    assert result.out.count("finished") == 2
    assert sorted(p.name for p in (tmp_path / "sweep" / "0").iterdir()) == ["summary.json"]
    same = ("method.rotation_shape=30", "backbone.num_features=40")
    assert cli("train", *SMALL, *same, "hydra.run.dir=alone").code == 0  # no stale exit code
    assert records(tmp_path / "alone") == records(tmp_path / "sweep" / "3")


def test_a_sweep_of_single_tasks_is_a_run_per_task_in_one_table(cli: Cli, tmp_path: Path) -> None:
    words = ("method=single", "tasks=[left],[sum]", "data.partners=1", "hydra.sweep.dir=sweep")
    result = cli("train", *SMOKE, "-m", *words)
    assert result.code == 0, result.err
    found = cells(tmp_path / "sweep")
    assert [found[n]["tasks"] for n in "01"] == [["left"], ["sum"]]
    (head,) = (line for line in result.out.splitlines() if "tasks" in line)
    assert "left accuracy" in head
    assert "sum mse" in head
    rows = [line.split("│") for line in result.out.splitlines() if "│" in line]
    values = [[cell.strip() for cell in row[4:6]] for row in rows]
    assert [[value == "-" for value in row] for row in values] == [[False, True], [True, False]]


def test_single_task_training_of_several_tasks_is_refused_in_one_line(
    cli: Cli, tmp_path: Path
) -> None:
    result = cli("train", *SMOKE, "method=single", "tasks=[left,sum]")
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert "one network for 1 task, got 2 tasks; choose one with tasks=[NAME]" in line
    assert list(tmp_path.iterdir()) == []


def test_a_diverging_cell_keeps_what_it_recorded(cli: Cli, tmp_path: Path) -> None:
    words = ("-m", "model_optimizer.lr=1e30,1e-3", "train.log_every_steps=1")
    result = cli("train", *SMALL, *words, "hydra.sweep.dir=sweep")
    assert result.code == 1
    found = cells(tmp_path / "sweep")
    assert [found[n]["status"] for n in "01"] == ["failed", "finished"]
    assert "became" in found["0"]["error"]
    assert "lower model_optimizer.lr" in found["0"]["error"]
    assert found["0"]["versions"] == found["1"]["versions"]
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_a_bug_in_a_cell_shows_its_traceback_and_the_others_run(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "buggy.py").write_text(
        "from rotograd_cli.methods.vanilla import VanillaMTL\n"
        "class Buggy(VanillaMTL):\n"
        "    def backward(self, *args, **options):\n"
        "        self.calls = getattr(self, 'calls', 0) + 1\n"
        "        if self.calls == 2:  # after the one that tries it on a copy\n"
        "            return {}['missing']\n"
        "        return super().backward(*args, **options)\n"
    )
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "buggy.yaml").write_text("_target_: buggy.Buggy\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("-m", "method=buggy,vanilla", "--config-dir", "conf", "hydra.sweep.dir=sweep")
    result = cli("train", *SMALL, *words)
    assert result.code == 1
    assert "Traceback" in result.err
    found = cells(tmp_path / "sweep")
    assert found["0"]["error"].startswith("KeyError")
    assert [found[n]["status"] for n in "01"] == ["failed", "finished"]


def test_a_misspelt_cell_is_refused_before_any_runs(cli: Cli, tmp_path: Path) -> None:
    result = cli("train", *SMALL, "-m", "method=vanilla,rotogard")
    assert result.code == 2
    assert "did you mean rotograd?" in result.err.lower()
    assert list(tmp_path.iterdir()) == []


def test_runs_started_at_once_have_separate_directories(tmp_path: Path) -> None:
    processes = [Forked(("train", *SMALL), tmp_path, {"OMP_NUM_THREADS": "1"}) for _ in range(2)]
    results = [process.communicate(timeout=PATIENCE_S) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    runs = list((tmp_path / "outputs" / "multidigits" / "rotograd").iterdir())
    assert len(runs) == 2
    assert records(runs[0]) == records(runs[1])


def test_a_sweep_counts_only_its_own_cells(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "summary.json").write_text('{"status": "running"}')
    (tmp_path / "sources").mkdir()
    for _ in range(2):
        result = cli("train", *SMALL, "-m", "seed=0,1", "hydra.sweep.dir=.", "resume=auto")
        assert result.code == 0, result.err
        rows = [line.split("│")[1].strip() for line in result.out.splitlines() if "│" in line]
        assert rows == ["0", "1"]
