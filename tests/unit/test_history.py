"""`metrics.jsonl`: read as records and as columns, damaged or while it is being written."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rotograd_cli.errors import DatasetError
from rotograd_cli.runs.history import evaluations, read_history
from rotograd_cli.runs.summary import recorded_metrics
from rotograd_cli.tracking.jsonl import JsonlTracker

RECORDS = [
    {"step": 5, "epoch": 0, "train/loss": 0.1 + 0.2},
    {"step": 10, "epoch": 0, "train/loss": math.inf, "train/a/weight": math.nan},
    {"step": 10, "epoch": 1, "val/loss": 1e-300},
]


def written(folder: Path) -> Path:
    tracker = JsonlTracker(folder / "metrics.jsonl")
    for record in RECORDS:
        tracker.log(record)
    tracker.finish({})
    return folder / "metrics.jsonl"


def test_a_column_has_a_row_per_record_and_nan_where_there_is_no_finite_value(
    tmp_path: Path,
) -> None:
    written(tmp_path)
    history = read_history(tmp_path)
    assert list(history) == ["step", "epoch", "train/loss", "train/a/weight", "val/loss"]
    for key, column in history.items():
        values = [record.get(key, math.nan) for record in RECORDS]
        expected = [value if math.isfinite(value) else math.nan for value in values]
        assert column.dtype == np.float64
        np.testing.assert_array_equal(column, expected)
    (tmp_path / "metrics.jsonl").write_text('{"step": Infinity}\n')
    assert np.isnan(read_history(tmp_path)["step"]).all()


def test_a_line_that_is_half_written_is_left_out(tmp_path: Path) -> None:
    """The run is training, or was killed while it wrote."""
    path = written(tmp_path)
    text = path.read_text()
    whole, last = text.rstrip("\n").rsplit("\n", 1)
    for length in range(len(last)):
        path.write_text(f"{whole}\n{last[:length]}")
        np.testing.assert_array_equal(read_history(tmp_path)["step"], [5, 10])
    path.write_text(f"{whole}\n{last}")
    np.testing.assert_array_equal(read_history(str(tmp_path))["step"], [5, 10, 10])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"metrics\.jsonl cannot be read \(No such file or directory\); .*"),
        (b"", r"must hold a record, got none; .*"),
        (b'{"st', r"must hold a record, got none; .*"),
        (b'{"step": 1}\n{"step": "x"}\n{"step": 3}\n', 'Line 2 of .* got \'{"step": "x"}\'; .*'),
        (b'{"step": 1}\n' + b"[" * 10**5 + b"\n", r"Line 2 of .* got '\[{40}'; .*"),
        (b"\xff\xfe\n", r"metrics\.jsonl cannot be read \(.*\); .*"),
    ],
)
def test_a_file_without_records_or_with_damage_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(DatasetError, match=message) as raised:
        read_history(tmp_path)
    assert "\n" not in str(raised.value)
    assert str(raised.value).count("metrics.jsonl") == 1  # one refusal, not one inside another


def test_evaluations_are_read_up_to_a_line_that_is_none(tmp_path: Path) -> None:
    assert list(evaluations(tmp_path)) == []
    good = {"step": 1, "val/a/loss": 0.5, "val/b/loss": None}
    later = {"step": 2, "val/a/loss": 0.25}
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in (good, {"train/loss": 1.0}, later)))
    assert list(evaluations(tmp_path)) == [good, later]
    assert recorded_metrics(tmp_path, "last") == later
    assert recorded_metrics(tmp_path, "best") == {}
    for record in ({"val/a/loss": "x"}, {"val/a": [1]}, ["val/a"], "val/a", 3):
        file.write_text("\n".join(json.dumps(r) for r in (good, record, later)))
        assert list(evaluations(tmp_path)) == [good]
    file.write_text(json.dumps(good) + "\n[" * 100_000)
    assert list(evaluations(tmp_path)) == [good]
