"""Trackers: files, terminal, and a wandb that works, fails or is absent."""

import io
import json
import logging
import math
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rotograd_cli.runs.directory import log_file
from rotograd_cli.tracking.base import NullTracker
from rotograd_cli.tracking.console import ConsoleTracker, Screen
from rotograd_cli.tracking.jsonl import JsonlTracker
from rotograd_cli.tracking.pace import Pace
from rotograd_cli.tracking.wandb import WandbTracker
from rotograd_cli.training.train_state import TrainState

RECORD = {"step": 2, "epoch": 1, "seconds": 1.5, "val/value/loss": 0.5, "val/loss": 0.5}
TRAINING = {"step": 1, "epoch": 1, "seconds": 0.5, "train/lr": 0.001}
SUMMARY = {"status": "finished", "seed": 3, "metrics": {"test/value/mse": 0.25}}


# ---- metrics.jsonl


def test_every_line_is_an_object_and_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    for num in range(1, 4):
        tracker.log({**RECORD, "step": num})
        lines = path.read_text(encoding="utf-8").splitlines()  # before the file is closed
        assert [json.loads(line)["step"] for line in lines] == list(range(1, num + 1))
    tracker.finish(SUMMARY)
    assert json.loads(lines[0]) == {**RECORD, "step": 1}


def test_values_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log({"step": 1, "epoch": 0, "a": math.nan, "b": math.inf, "c": -math.inf, "d": 1e-300})
    tracker.finish(SUMMARY)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert record == {"step": 1, "epoch": 0, "a": None, "b": None, "c": None, "d": 1e-300}


# ---- terminal


def console(num_epochs: int, select: str) -> ConsoleTracker:
    pace = Pace(num_steps=num_epochs, batch_size=500)
    return ConsoleTracker(num_epochs, select, pace, Screen())


def test_console_prints_one_line_per_evaluation_and_none_per_training_record(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for select in ("val/loss", "train/loss"):  # training records have the latter too
        tracker = console(2, select)
        tracker.log({**TRAINING, "train/value/loss": 0.75, "train/loss": 0.75})
        tracker.progress(TrainState(), 3, 0)
        tracker.log({**RECORD, "train/loss": 0.7})
        tracker.log({"step": 2, "epoch": 1, "test/value/loss": 0.25, "test/loss": 0.25})
        tracker.finish(SUMMARY)
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert lines[0].startswith(f"epoch 1/2  {select} ")
        assert lines[0].endswith("  val loss value 0.5000")
        assert lines[1:] == ["test of epoch 1  loss value 0.2500"]


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bar_shows_whole_columns_and_leaves_no_trace_in_logged_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    with monkeypatch.context() as patch, log_file(tmp_path / "train.log"):
        patch.setattr(sys, "stderr", terminal)
        tracker = console(12, "val/loss")
        losses = {f"train/task_{n}/loss": 2.0 for n in range(4)}
        tracker.log({**TRAINING, **losses, "train/loss": 8.0})
        for batch in range(3):
            tracker.progress(TrainState(), 3, batch)
            time.sleep(0.002)
        tracker._progress.refresh()
        logging.getLogger("rotograd_cli.x").info("Selected epoch 2.")
        tracker.finish(SUMMARY)
    text = terminal.getvalue()
    assert "…" not in text
    assert "task_3" not in text
    assert re.search(r"epoch 1/12 .* 3/3 .*\d steps/s", text)
    # the line of the bar is erased before the message is written
    assert re.search(r"\x1b\[2KSelected epoch 2\.\r?\n", text)


@pytest.mark.parametrize("num", [10, 11])
def test_console_sums_up_the_losses_of_many_tasks(
    num: int, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {f"val/a{k}/loss": 0.25 for k in range(num)}
    tracker = console(1, "val/mean_f1")
    tracker.log(
        {"step": 1, "epoch": 1, "seconds": 1.5, **losses, "val/loss": num / 4, "val/mean_f1": 0.5}
    )
    tracker.finish(SUMMARY)
    (line,) = capsys.readouterr().err.splitlines()
    each = " ".join(f"a{k} 0.2500" for k in range(num))
    short = "2.7500 (sum of 11 tasks)"
    assert line.startswith("epoch 1/1  val/mean_f1 0.5000  ")
    assert line.endswith(f"  val loss {each if num == 10 else short}")


def test_epoch_lines_stand_in_columns_and_name_their_cell(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two epochs of 80 s and 60 s, 40 s and 30 s of which were training, of four: 140 s to go."""
    noon = time.mktime((2026, 11, 28, 12, 0, 0, 0, 0, -1))
    times = iter([noon, noon + 80, noon + 140])
    pace = Pace(num_steps=40, batch_size=500, clock=lambda: next(times))
    tracker = ConsoleTracker(4, "val/loss", pace, Screen(label="cell 3: "))
    for epoch, (seconds, loss, rate) in enumerate([(40.0, 12.5, 1e-3), (70.0, 9.25, 5e-4)], 1):
        step = {"step": 10 * epoch, "epoch": epoch, "seconds": seconds}
        tracker.log({**step, "train/a/loss": 1.0, "train/loss": 1.0, "train/lr": rate})
        tracker.log({**step, "val/a/loss": loss, "val/b/loss": 0.5, "val/loss": loss + 0.5})
    tracker.finish(SUMMARY)
    assert capsys.readouterr().err.splitlines() == [
        "cell 3: epoch 1/4  val/loss 13.0000  40.0 s  125 ex/s  lr 1.0e-03  ends 12:05  "
        "val loss a 12.5000 b 0.5000",
        "cell 3: epoch 2/4  val/loss  9.7500  30.0 s  167 ex/s  lr 5.0e-04  ends 12:04  "
        "val loss a  9.2500 b 0.5000",
    ]


def test_a_resumed_run_without_a_step_has_no_pace_yet() -> None:
    pace = Pace(num_steps=40, batch_size=500, step=10, seconds=3.0)
    assert pace.advance(10, 3.0) == ["0.0 s", "- ex/s", "-"]


# ---- wandb


def wandb_tracker(run_dir: Path, mode: Any = "offline", **changes: Any) -> WandbTracker:
    options: dict[str, Any] = {
        "config": {"seed": 3, "train": {"epochs": 2}},
        "tags": ["first"],
        "project": "rotograd",
        "entity": None,
        "group": None,
        "init_timeout_s": 5.0,
    }
    return WandbTracker(run_dir=run_dir, mode=mode, **{**options, **changes})


@pytest.fixture
def warned(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """Warnings of the tracker, whatever an earlier run did to the package's logger."""
    logger = logging.getLogger("rotograd_cli.tracking.wandb")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


class FakeWandb(ModuleType):
    """Stands in for wandb; raises where it is told to."""

    def __init__(self, *failures: str) -> None:
        super().__init__("wandb")
        self.failures = failures
        self.calls: list[str] = []
        self.values: list[tuple[dict[str, float], int]] = []
        self.summary: dict[str, Any] = {}
        self.options: dict[str, Any] = {}

    def login(self, **options: Any) -> bool:
        self._call("login")
        return True

    def Settings(self, **settings: Any) -> dict[str, Any]:  # noqa: N802 - wandb's name
        return settings

    def init(self, *, mode: str, **options: Any) -> Any:
        self._call(mode)
        self.options = options
        return SimpleNamespace(log=self._log, finish=self._finish, summary=self.summary)

    def _log(self, values: dict[str, float], step: int) -> None:
        self._call("log")
        self.values.append((values, step))

    def _finish(self, exit_code: int) -> None:
        self._call(f"finish {exit_code}")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failures:
            raise RuntimeError(f"{name} broke\nwith details")


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeWandb) -> FakeWandb:
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    return fake


def run_once(tracker: WandbTracker, status: str = "finished") -> None:
    tracker.log(RECORD)
    tracker.finish({**SUMMARY, "status": status})


def test_wandb_gets_values_by_step_and_the_metrics_in_its_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture
) -> None:
    fake = use(monkeypatch, FakeWandb())
    run_once(wandb_tracker(tmp_path))
    assert fake.calls == ["offline", "log", "finish 0"]
    assert fake.values == [({key: RECORD[key] for key in RECORD if key != "step"}, 2)]
    assert fake.summary == {"status": "finished", "seed": 3, "test/value/mse": 0.25}
    assert warned.records == []


def test_variables_name_a_run_unless_the_run_has_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = use(monkeypatch, FakeWandb())
    for name in ("DIR", "NAME", "TAGS"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    run_once(wandb_tracker(tmp_path))
    assert fake.options["dir"] == str(tmp_path)
    assert fake.options["name"].endswith(tmp_path.name)
    for name in ("DIR", "NAME", "TAGS"):
        monkeypatch.setenv(f"WANDB_{name}", "mine")
    run_once(wandb_tracker(tmp_path))  # wandb reads what it is not told
    assert fake.options["tags"] == ["first"]
    assert not {"dir", "name"} & set(fake.options)
    run_once(wandb_tracker(tmp_path, tags=[]))
    assert not {"dir", "name", "tags"} & set(fake.options)


def test_failed_run_is_marked_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(monkeypatch, FakeWandb())
    run_once(wandb_tracker(tmp_path), "interrupted")
    assert fake.calls[-1] == "finish 1"


def test_online_run_that_cannot_start_goes_on_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture
) -> None:
    fake = use(monkeypatch, FakeWandb("online"))
    run_once(wandb_tracker(tmp_path, "online"))
    assert [call for call in fake.calls if call != "login"] == [
        "online",
        "offline",
        "log",
        "finish 0",
    ]
    assert "online broke" in warned.text
    assert len(warned.records) == 1


@pytest.mark.parametrize("failure", ["offline", "log", "finish 0"])
def test_wandb_that_breaks_costs_a_warning_and_not_the_run(
    failure: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    warned: pytest.LogCaptureFixture,
) -> None:
    use(monkeypatch, FakeWandb(failure))
    run_once(wandb_tracker(tmp_path))
    assert [record.levelname for record in warned.records] == ["WARNING"]
    assert f"{failure} broke" in warned.text
    assert "with details" not in warned.text  # one line


def test_wandb_that_is_not_installed_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run_once(wandb_tracker(tmp_path))
    assert [record.levelname for record in warned.records] == ["WARNING"]


def test_disabled_wandb_is_not_even_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run_once(wandb_tracker(tmp_path, "disabled"))
    null = NullTracker(run_dir=tmp_path, config={}, tags=[])
    null.log(RECORD)
    null.finish(SUMMARY)
    assert list(tmp_path.iterdir()) == []
    assert warned.records == []


@pytest.mark.slow
def test_real_wandb_writes_two_separate_runs_below_their_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = wandb_tracker(tmp_path / "first")
    first.log(RECORD)
    second = wandb_tracker(tmp_path / "second")  # while the first one is open
    run_once(second)
    run_once(first)
    for name in ("first", "second"):
        files = list((tmp_path / name / "wandb").glob("offline-run-*/run-*.wandb"))
        assert len(files) == 1, name
        assert files[0].stat().st_size > 0
    ours = [record for record in warned.records if record.name.startswith("rotograd_cli")]
    assert [record for record in ours if "start" in record.getMessage()] == []
