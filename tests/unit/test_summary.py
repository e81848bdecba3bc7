"""`summary.json`: one typed record, of this run or of somebody else's, read whole or not at all."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.summary import SCHEMA_VERSION, MetricDisplay, RunSummary
from tests.fake_runs import fake_summary

SUMMARY: dict[str, Any] = fake_summary({"left/accuracy": 0.5, "sum/mse": None}, num_threads=1)
WRONG = (3, "x", [3], ["x"], {"x": 3}, {"x": {"y": 1}}, {"x/y": {"better": 1, "percent": True}})
# of keys that have one of these forms
ALLOWED = {("metrics", 4), ("seed", 0), ("epochs", 0), ("train_s", 0), ("wall_s", 0), ("notes", 3)}
ALLOWED |= {("tasks", 3), ("num_threads", 0), ("selected_epoch", 0), ("data_s", 0)}
TEXTS = ("status", "method", "data", "protocol", "data_fingerprint", "device", "commit")
ALLOWED |= {(key, 1) for key in TEXTS}


def written(folder: Path, content: object) -> Path:
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


def test_a_summary_with_a_value_of_another_type_counts_as_none(tmp_path: Path) -> None:
    assert RunSummary.read(written(tmp_path, SUMMARY)) is not None
    for key in SUMMARY:
        for index, value in enumerate(WRONG):
            run_dir = written(tmp_path, {**SUMMARY, key: value})
            assert (RunSummary.read(run_dir) is not None) == ((key, index) in ALLOWED), (key, value)


def test_a_file_that_holds_no_object_counts_as_none(tmp_path: Path) -> None:
    assert RunSummary.read(tmp_path) is None
    texts = ("[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "nul", "", "[1]", '{"status": 1')
    for text in texts:
        (tmp_path / "summary.json").write_text(text)
        assert RunSummary.read(tmp_path) is None
    (tmp_path / "summary.json").write_bytes(b"\xff\xfe\x00")
    assert RunSummary.read(tmp_path) is None


def test_unknown_keys_and_fewer_keys_are_read(tmp_path: Path) -> None:
    """Other versions write others."""
    assert RunSummary.read(written(tmp_path, {})) == RunSummary()
    summary = RunSummary.read(written(tmp_path, {"status": "failed", "new": [1]}))
    assert summary == RunSummary(status="failed")


def test_an_interrupt_is_named_without_its_class(tmp_path: Path) -> None:
    """As earlier versions wrote it."""
    for text in ("StopRequested: stopped by SIGINT", "stopped by SIGINT"):
        summary = RunSummary.read(written(tmp_path, {**SUMMARY, "error": text}))
        assert summary is not None
        assert summary.error == "stopped by SIGINT"


def test_a_summary_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """It may mean other things by the same keys."""
    newer = {**SUMMARY, "schema_version": SCHEMA_VERSION + 1}
    with pytest.raises(ConfigError, match=r"must be at most 1, got 2; .* newer rotograd-cli"):
        RunSummary.read(written(tmp_path, newer))
    with pytest.raises(ConfigError, match="must be at most 1, got 2"):
        RunSummary.read(written(tmp_path, {**newer, "status": ["of another form"]}))


def test_what_is_written_is_read_with_none_for_what_json_does_not_have(tmp_path: Path) -> None:
    metrics: dict[str, float | None] = {"test/a/loss": 0.1 + 0.2, "test/b/loss": math.nan}
    summary = RunSummary(
        status="finished",
        method="ü",
        data="toy",
        tasks=["a", "b"],
        metric_specs={"a/accuracy": MetricDisplay("higher", True)},
        metrics=metrics,
    )
    summary.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    expected = dataclasses.replace(
        summary, metrics={**metrics, "test/b/loss": None}, schema_version=SCHEMA_VERSION
    )
    assert RunSummary.read(tmp_path) == expected


def test_failure_while_writing_leaves_the_old_summary(tmp_path: Path) -> None:
    RunSummary(status="running").write(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunSummary(status="finished", train_s=math.nan).write(tmp_path)
    read = RunSummary.read(tmp_path)
    assert read is not None
    assert read.status == "running"


def test_a_finished_run_has_recorded_its_results(tmp_path: Path) -> None:
    for key in ("method", "data", "tasks", "metrics", "metric_specs"):
        part = {k: v for k, v in SUMMARY.items() if k != key}
        summary = RunSummary.read(written(tmp_path, part))
        assert summary is not None
        assert summary.outcome == "summary.json lacks results"
        assert not summary.is_finished
        assert not summary.is_complete


def test_a_complete_run_has_recorded_what_is_shown_of_it(tmp_path: Path) -> None:
    summary = RunSummary.read(written(tmp_path, SUMMARY))
    assert summary is not None
    assert summary.is_finished
    assert summary.is_complete
    assert not dataclasses.replace(summary, status="running").is_complete
    for key in ("seed", "protocol", "selected_epoch", "epochs", "train_s", "data_s", "wall_s"):
        part = dataclasses.replace(summary, **{key: None})
        assert part.is_finished
        assert not part.is_complete


def test_a_value_that_is_not_finite_is_no_selection_value() -> None:
    for value in (None, math.nan, math.inf, -math.inf):
        summary = RunSummary(status="finished", select="val/loss", metrics={"val/loss": value})
        assert summary.selected_value is None
        assert summary.outcome == "no finite val/loss"
    zero = RunSummary(status="finished", select="val/loss", metrics={"val/loss": 0.0})
    assert zero.selected_value == 0.0
    assert zero.outcome == "finished"
    assert dataclasses.replace(zero, status="failed").selected_value is None
    assert dataclasses.replace(zero, metrics={}).selected_value is None
    assert RunSummary().selected_value is None
