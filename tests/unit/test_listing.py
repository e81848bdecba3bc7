"""The list of runs: what became of each, in which order, by what they differ."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rotograd_cli.errors import ConfigError
from rotograd_cli.tables import listing
from rotograd_cli.tables.listing import SORTS, find
from rotograd_cli.tables.narrow import fitted
from tests.fake_runs import fake_summary

SELECT = "val/geomean_loss"


def write(folder: Path, value: float | None = 0.5, records: str = "", **summary: Any) -> Path:
    folder.mkdir(parents=True)
    metrics = {SELECT: value, "test/left/accuracy": 0.25}
    content = {**fake_summary({"left/accuracy": 0.25}), "select": SELECT, "metrics": metrics}
    content |= {"planned_epochs": 5, **summary}
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / "summary.json").write_text(json.dumps(kept))
    (folder / "metrics.jsonl").write_text(records)
    return folder


def evaluation(epoch: int, value: float) -> str:
    training = {"step": 9, "epoch": epoch, "train/loss": 1.0, "train/lr": 0.1}
    return f"{json.dumps(training)}\n" + json.dumps({"epoch": epoch, SELECT: value}) + "\n"


def owned_by(folder: Path, process: int, node: str | None = None) -> None:
    (folder / ".lock").write_text(f"process {process} on {node or platform.node()}\n")


def test_a_run_is_what_its_files_and_its_process_say(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    under_way: dict[str, Any] = {"status": "running", "epochs": None}
    records = evaluation(1, 0.75) + evaluation(2, 0.625) + '{"epoch": 3, "tra'  # half written
    owned_by(write(tmp_path / "running", records=records, **under_way), os.getpid())
    owned_by(write(tmp_path / "killed", records=records, **under_way), gone.pid)
    owned_by(write(tmp_path / "elsewhere", records="", **under_way), gone.pid, "another machine")
    write(tmp_path / "interrupted", records=records, status="interrupted", epochs=2)
    write(tmp_path / "failed", status="failed", epochs=0)
    write(tmp_path / "old", planned_epochs=None)
    write(tmp_path / "nan", value=None)
    write(tmp_path / "newer", schema_version=99)
    write(tmp_path / "damaged").joinpath("summary.json").write_text("{")
    (tmp_path / "early" / "checkpoints").mkdir(parents=True)
    (tmp_path / "early" / "config.yaml").touch()
    found = {r.folder.name: (r.status, r.epochs, r.value) for r in find([str(tmp_path)]).runs}
    assert found == {
        "running": ("running", "2/5", 0.625),
        "killed": ("stopped", "2/5", 0.625),
        "elsewhere": ("running", "-", None),
        "interrupted": ("stopped", "2/5", 0.625),
        "failed": ("failed", "0/5", None),
        "old": ("finished", "3", 0.5),
        "nan": (f"no finite {SELECT}", "3/5 early", None),
        "newer": ("of a newer version", "-", None),
        "damaged": ("unreadable", "-", None),
        "early": ("no summary", "-", None),
    }


def test_the_last_evaluation_is_found_however_long_ago_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = "".join(json.dumps({"step": n, "train/loss": 0.5}) + "\n" for n in range(50))
    path = write(tmp_path / "run", records=evaluation(7, 0.125) + steps, status="failed")
    for size in (1, 2, 3, 7, 64, 10_000):
        monkeypatch.setattr(listing, "BLOCK", size)
        lines = list(listing._lines_from_end(path / "metrics.jsonl"))
        text = (path / "metrics.jsonl").read_bytes()
        assert lines == list(reversed(text.split(b"\n")))
    (run,) = find([str(path)]).runs
    assert run.value == 0.125


def test_lists_are_sorted_and_show_what_differs(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    shared = ["debug=smoke", "method=vanilla", "logger=none"]
    for name, value, hours in (("2", 0.5, 2), ("10", 0.25, 30), ("1", None, 0.5)):
        write(
            tmp_path / name,
            value,
            started=(now - timedelta(hours=hours)).isoformat(),
            overrides=[*shared, f"seed={name}", f"paths.data_dir={name}"],
        )
    runs = find([str(tmp_path)]).runs
    orders = {"age": "1 2 10", "metric": "10 2 1", "name": "1 2 10"}
    for sort, expected in orders.items():
        grid = listing.listing(runs, sort)
        assert [Path(row[-1].text).name for row in grid.rows] == expected.split()
    head, *rows = grid.lines()
    assert head.split("  ")[-1] == "folder"
    columns = ["1 d", "2 h", "30 min", "seed=1", "seed=10"]
    assert all(sum(text in row for row in rows) for text in columns)
    assert "debug=smoke" not in "".join(rows)
    start = head.index("what differs")
    assert [row[start:].split("  ")[0] for row in rows] == ["seed=1", "seed=2", "seed=10"]
    for sort in SORTS:
        assert len(listing.listing(runs, sort).rows) == 3


def test_a_narrow_terminal_gets_more_lines_and_a_pipe_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    long = [f"heads.task_{n}.hidden_size=[64,64]" for n in range(4)]
    write(
        tmp_path / "outputs/multidigits/a",
        planned_epochs=3,
        overrides=["+train.epochs=4", "seed=1", *long],
    )
    write(tmp_path / "outputs/multidigits/b", planned_epochs=3, overrides=["train.epochs=4"])
    grid = listing.listing(find([str(tmp_path)]).runs, "name")
    piped = fitted(grid, None)
    assert len(piped) == 3
    assert " ".join(["seed=1", *long]) in piped[1]
    assert "train.epochs" not in "".join(piped)
    assert fitted(grid, max(map(len, piped))) == piped
    _, first, difference, folder, second, last = narrow = fitted(grid, 80)
    assert max(map(len, narrow)) == len(difference) == 80
    assert difference.startswith("  seed=1 heads.task_0.hidden_size=[64,64] heads.task_1")
    assert difference.endswith("...")
    assert (folder, last) == ("  outputs/multidigits/a", "  outputs/multidigits/b")
    assert [line.split()[-2:] for line in (first, second)] == 2 * [["Vanilla", "toy"]]
    tiny = fitted(grid, 50)
    assert [len(tiny), "method" in tiny[0], "data" in tiny[0]] == [6, True, False]


def test_a_higher_metric_comes_first_where_higher_is_better(tmp_path: Path) -> None:
    select = "val/left/accuracy"
    for name, value in (("a", 0.5), ("b", 0.75)):
        write(tmp_path / name, select=select, metrics={select: value, SELECT: 0.0})
    runs = find([str(tmp_path / "*")]).runs
    assert [row[2].text for row in listing.listing(runs, "metric").rows] == ["0.7500", "0.5000"]


def test_what_holds_no_run_is_named(tmp_path: Path) -> None:
    write(tmp_path / "run")
    (tmp_path / "sweep.md").touch()
    found = find([str(tmp_path / "run"), str(tmp_path / "sweep.md"), "nothing/*"])
    assert [run.folder.name for run in found.runs] == ["run"]
    assert found.problems == ["'nothing/*' matches nothing."]
    with pytest.raises(ConfigError, match=r"needs run directories or folders .* got 'nothing/"):
        find(["nothing/*"])
