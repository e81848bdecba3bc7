"""Summaries on disk, and tables made of them."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rotograd_cli.printing.grid import Grid
from rotograd_cli.printing.terminal import fitting, print_grid
from rotograd_cli.runs.report import (
    common_overrides,
    evaluation_table,
    format_value,
    read_summary,
    remarks,
    run_table,
    selected_value,
    sweep_table,
    training_time,
    write_summary,
)

SUMMARY: dict[str, Any] = {
    "status": "finished",
    "method": "RotoGrad",
    "data": "toy",
    "tasks": ["left", "sum"],
    "seed": 3,
    "selected_epoch": 2,
    "epochs": 5,
    "protocol": "selection on validation",
    "overrides": ["tasks=[left,right]", "seed=3"],
    "metric_specs": {
        "left/accuracy": {"better": "higher", "percent": True},
        "sum/mse": {"better": "lower", "percent": False},
    },
    "metrics": {
        "val/left/accuracy": 0.91236,
        "val/sum/mse": 1.5,
        "val/geomean_loss": 0.5,
        "test/left/accuracy": 0.9,
        "test/sum/mse": math.nan,
        "test/geomean_loss": 0.25,
    },
}


def text(grid: Grid) -> str:
    console = Console(width=400, file=io.StringIO())
    with console.capture() as capture:
        console.print(*fitting(grid, console))
    return capture.get()


def test_summary_is_read_as_it_was_written_with_null_for_what_json_does_not_have(
    tmp_path: Path,
) -> None:
    summary = {"a": 0.1 + 0.2, "b": [math.nan, 1], "c": {"d": -math.inf}, "e": None, "f": "ü"}
    write_summary(tmp_path, summary)
    assert read_summary(tmp_path) == {**summary, "b": [None, 1], "c": {"d": None}}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_failure_while_writing_leaves_the_old_summary(tmp_path: Path) -> None:
    write_summary(tmp_path, {"a": 1})
    with pytest.raises(TypeError):
        write_summary(tmp_path, {"a": object()})
    assert read_summary(tmp_path) == {"a": 1}


@pytest.mark.parametrize("content", [None, b"", b'{"a": 1', b"[1]", b"\xff\xfe\x00"])
def test_absent_or_unreadable_summary_is_none(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_bytes(content)
    assert read_summary(tmp_path) is None


@pytest.mark.parametrize(
    ("value", "percent", "expected"),
    [
        (0.91236, True, "91.24"),
        (0.91236, False, "0.9124"),
        (0.0, True, "0.00"),
        (None, True, "-"),
        (math.nan, False, "-"),
        (math.inf, False, "-"),
    ],
)
def test_values_are_printed_in_percent_where_declared(
    value: float | None, percent: bool, expected: str
) -> None:
    assert format_value(value, percent) == expected


def test_run_table_names_run_and_directions() -> None:
    rows = text(run_table(SUMMARY)).splitlines()
    assert "RotoGrad on toy, seed 3, epoch 2 of 5" in rows[0]
    cells = {row.split()[1]: row.split() for row in rows if "left" in row or "sum" in row}
    assert cells["left"][2:-1] == ["│", "accuracy", "%", "↑", "│", "91.24", "│", "90.00"]
    assert cells["sum"][2:-1] == ["│", "mse", "↓", "│", "1.5000", "│", "-"]
    assert any("geometric mean of losses" in row and "0.2500" in row for row in rows)
    assert "train" not in text(run_table(SUMMARY))


def test_a_task_without_metrics_is_shown_by_its_loss() -> None:
    summary = {**SUMMARY, "tasks": ["left", "sum", "extra"]}
    summary["metrics"] = {**SUMMARY["metrics"], "test/extra/loss": 0.125}
    row = next(line for line in text(run_table(summary)).splitlines() if "extra" in line)
    assert "loss" in row
    assert "0.1250" in row


def many_tasks(num: int) -> dict[str, Any]:
    """Summary of a run with tasks that share their metric."""
    names = [f"a{k}" for k in range(num)]
    spec = {"better": "higher", "percent": True}
    statistics = {f"{name}_f1": dict(spec) for name in ("min", "median", "mean")}
    return {
        **SUMMARY,
        "tasks": names,
        "metric_specs": {f"{name}/f1": spec for name in names},
        "statistic_specs": {**statistics, "std_f1": {"better": None, "percent": True}},
        "metrics": {
            **{f"test/{name}/f1": 0.5 for name in names},
            "test/min_f1": 0.25,
            "test/median_f1": 0.5,
            "test/mean_f1": 0.625,
            "test/std_f1": 0.125,
        },
    }


def test_run_table_ends_with_the_statistics_over_tasks() -> None:
    rows = [line.split("│") for line in text(run_table(many_tasks(40))).splitlines()]
    cells = [[cell.strip() for cell in row[1:4]] for row in rows if len(row) > 3]
    assert len(cells) == 40 + 4 + 1
    assert cells[39:44] == [
        ["a39", "f1 % ↑", "50.00"],
        ["all", "min f1 % ↑", "25.00"],
        ["all", "median f1 % ↑", "50.00"],
        ["all", "mean f1 % ↑", "62.50"],
        ["all", "std f1 %", "12.50"],
    ]


@pytest.mark.parametrize(
    ("num", "shown"), [(2, "both"), (10, "both"), (11, "statistics"), (40, "statistics")]
)
def test_sweep_table_shows_many_tasks_by_their_statistics(num: int, shown: str) -> None:
    summary = many_tasks(num)
    heads = sweep_table([("0", summary), ("1", None)]).heads
    tasks = [f"a{k} f1 % ↑" for k in range(num)] if shown == "both" else []
    assert heads[3:] == [*tasks, "min f1 % ↑", "median f1 % ↑", "mean f1 % ↑", "std f1 %"]
    assert "62.50" in text(sweep_table([("0", summary)]))


def test_many_metrics_without_statistics_are_all_shown() -> None:
    summary = {key: value for key, value in many_tasks(12).items() if key != "statistic_specs"}
    assert len(sweep_table([("0", summary)]).heads) == 3 + 12


def test_sweep_table_shows_only_the_overrides_in_which_cells_differ() -> None:
    cells = [{**SUMMARY, "overrides": [f"seed={seed}", "logger=none"]} for seed in (0, 1)]
    assert common_overrides([*cells, None]) == ["logger=none"]
    assert common_overrides(cells[:1]) == []
    printed = text(sweep_table([("0", cells[0]), ("1", cells[1])]))
    assert "seed=1" in printed
    assert "logger=none" not in printed


def test_sweep_table_has_a_row_for_every_cell_even_where_a_run_left_nothing() -> None:
    failed = {"status": "failed", "overrides": ["method=vanilla"]}
    table = text(sweep_table([("0", SUMMARY), ("1", failed), ("2", None)]))
    rows = {line.split()[1]: line for line in table.splitlines() if line.startswith("│")}
    assert "finished" in rows["0"]
    assert "90.00" in rows["0"]
    assert "failed" in rows["1"]
    assert "method=vanilla" in rows["1"]
    assert "no result" in rows["2"]


def test_sweep_table_shows_what_cells_are_chosen_by_and_numbers_of_finished_cells_alone() -> None:
    key = "val/geomean_loss"
    finished = {**SUMMARY, "select": key}
    failed = {**finished, "status": "failed"}
    nan = {**finished, "metrics": {**SUMMARY["metrics"], key: None}}
    table = text(sweep_table([("0", finished), ("1", failed), ("2", nan), ("3", None)]))
    assert f"selected by {key}" in table
    rows = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row[4:6]] for row in rows]
    assert cells == [["0.5", "90.00"], ["-", "-"], ["-", "-"], ["-", "-"]]
    assert [row[2].strip() for row in rows] == [
        "finished",
        "failed",
        f"no finite {key}",
        "no result",
    ]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_no_selection_value(value: float | None) -> None:
    summary = {"status": "finished", "select": "val/loss", "metrics": {"val/loss": value}}
    assert selected_value(summary) is None
    assert selected_value({**summary, "metrics": {"val/loss": 0.0}}) == 0.0
    assert selected_value({**summary, "metrics": {"val/loss": 0.0}, "status": "failed"}) is None
    assert selected_value({**summary, "metrics": {}}) is None
    assert selected_value(None) is None


def test_brackets_of_overrides_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["tasks=[left,right]", "+heads.sum.hidden=[/bold]"]
    odd = {**SUMMARY, "overrides": overrides, "data": "[x]"}
    print_grid(sweep_table([("0", odd)]))
    print_grid(run_table(odd))
    printed = capsys.readouterr().out
    assert "tasks=[left,right]" in printed
    assert "[/bold]" in printed
    assert "RotoGrad on [x]" in printed


def test_evaluation_says_whether_it_repeats_the_record() -> None:
    measured = {"test/a/loss": 0.123456789, "test/b/loss": math.nan, "test/c/loss": 3.0}
    recorded = json.loads(json.dumps({**measured, "test/b/loss": None}))  # as summary.json has it
    table, verdict = evaluation_table(measured, recorded)
    assert verdict == "All 3 values equal the run's record exactly."
    assert "0.12345679" in text(table)
    _, verdict = evaluation_table(measured, {**recorded, "test/c/loss": 3.0 + 1e-12})
    assert verdict.startswith("1 of 3 values differ")
    _, verdict = evaluation_table(measured, {})
    assert "recorded no metrics" in verdict


def test_table_goes_to_standard_output_complete_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_grid(run_table(SUMMARY))
    captured = capsys.readouterr()
    assert max(map(len, captured.out.splitlines())) <= 20
    for word in ("geometric", "mean", "losses", "0.2500"):
        assert word in captured.out
    assert "…" not in captured.out
    assert captured.err == ""


def test_notes_on_the_data_are_said_once_for_all_runs() -> None:
    runs = [{"notes": ["a subset"]}, None, {"notes": ["a subset", "Estimated."]}, {}]
    assert remarks(runs) == ["Note: a subset.", "Note: Estimated."]


def test_training_time_says_how_much_of_it_waited_for_data() -> None:
    assert training_time({"train_s": 20.0, "data_s": 1.0}) == (
        "Training steps took 20.0 s, 5.0 % of it waiting for data."
    )
    assert "took 2.00 h, 0.0 %" in training_time({"train_s": 7200.0, "data_s": 0.0})
    assert "took 0.0 s, 0.0 %" in training_time({"train_s": 0.0, "data_s": 0.0})
