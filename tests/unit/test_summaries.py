"""`summary.json` of somebody else: read whole, or not at all."""

import json
from pathlib import Path
from typing import Any

from rotograd_cli.runs.report import read_summary
from rotograd_cli.runs.summaries import is_evaluation, is_finished, is_summary
from tests.fake_runs import fake_summary

SUMMARY: dict[str, Any] = fake_summary({"left/accuracy": 0.5, "sum/mse": None}, num_threads=1)
WRONG = (3, "x", [3], ["x"], {"x": 3}, {"x": {"y": 1}}, {"x/y": {"better": 1, "percent": True}})
# of keys that have one of these forms
ALLOWED = {("metrics", 4), ("seed", 0), ("epochs", 0), ("train_s", 0), ("wall_s", 0), ("notes", 3)}
ALLOWED |= {("tasks", 3), ("num_threads", 0), ("selected_epoch", 0), ("data_s", 0)}
TEXTS = ("status", "method", "data", "protocol", "data_fingerprint", "device", "commit")
ALLOWED |= {(key, 1) for key in TEXTS}


def test_a_summary_with_a_value_of_another_type_counts_as_none(tmp_path: Path) -> None:
    assert is_summary(SUMMARY)
    for key in SUMMARY:
        for index, value in enumerate(WRONG):
            (tmp_path / "summary.json").write_text(json.dumps({**SUMMARY, key: value}))
            assert (read_summary(tmp_path) is not None) == ((key, index) in ALLOWED), (key, value)


def test_a_file_that_nests_too_deep_counts_as_none(tmp_path: Path) -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "nul", ""):
        (tmp_path / "summary.json").write_text(text)
        assert read_summary(tmp_path) is None


def test_unknown_keys_and_fewer_keys_are_read(tmp_path: Path) -> None:
    """Other versions write others."""
    for summary in ({**SUMMARY, "new": [1]}, {"status": "failed", "overrides": ["x=1"]}, {}):
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        assert read_summary(tmp_path) == summary


def test_a_finished_run_has_recorded_what_is_shown() -> None:
    whole = {**SUMMARY, "selected_epoch": 1, "data_s": 1.0}
    assert is_finished(whole)
    assert not is_finished({**whole, "status": "running"})
    assert not is_finished(None)
    assert is_finished(SUMMARY, in_table=True)
    for key in ("tasks", "metrics", "metric_specs"):
        part = {k: v for k, v in whole.items() if k != key}
        assert not is_finished(part)
        assert not is_finished(part, in_table=True)


def test_records_of_other_types_are_no_evaluations() -> None:
    assert is_evaluation({"step": 1, "val/a/loss": 0.5, "val/b/loss": None})
    for record in ({"train/loss": 1.0}, {"val/a/loss": "x"}, {"val/a": [1]}, ["val/a"], "val/a", 3):
        assert not is_evaluation(record)
