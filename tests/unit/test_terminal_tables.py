"""Summaries on disk, and tables made of them."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rotograd_cli.printing.grid import Grid, fitting, print_grid
from rotograd_cli.runs.summary import MetricDisplay, RunSummary
from rotograd_cli.runs.sweep import common_overrides, sweep_table, write_sweep
from rotograd_cli.runs.terminal import (
    evaluation_table,
    format_value,
    remarks,
    run_table,
    training_time,
)

SUMMARY = RunSummary(
    status="finished",
    method="RotoGrad",
    data="toy",
    tasks=["left", "sum"],
    seed=3,
    selected_epoch=2,
    epochs=5,
    protocol="selection on validation",
    overrides=["tasks=[left,right]", "seed=3"],
    metric_specs={
        "left/accuracy": MetricDisplay("higher", True),
        "sum/mse": MetricDisplay("lower", False),
    },
    metrics={
        "val/left/accuracy": 0.91236,
        "val/sum/mse": 1.5,
        "val/geomean_loss": 0.5,
        "test/left/accuracy": 0.9,
        "test/sum/mse": math.nan,
        "test/geomean_loss": 0.25,
    },
)


def text(grid: Grid) -> str:
    console = Console(width=400, file=io.StringIO())
    with console.capture() as capture:
        console.print(*fitting(grid, console))
    return capture.get()


def test_values_are_printed_in_percent_where_declared() -> None:
    assert format_value(0.91236, True) == "91.24"
    assert format_value(0.91236, False) == "0.9124"
    assert format_value(0.0, True) == "0.00"
    for value in (None, math.nan, math.inf):
        assert format_value(value, True) == format_value(value, False) == "-"


def test_run_table_names_run_and_directions() -> None:
    rows = text(run_table(SUMMARY)).splitlines()
    assert "RotoGrad on toy, seed 3, epoch 2 of 5" in rows[0]
    cells = {row.split()[1]: row.split() for row in rows if "left" in row or "sum" in row}
    assert cells["left"][2:-1] == ["│", "accuracy", "%", "↑", "│", "91.24", "│", "90.00"]
    assert cells["sum"][2:-1] == ["│", "mse", "↓", "│", "1.5000", "│", "-"]
    assert any("geometric mean of losses" in row and "0.2500" in row for row in rows)
    assert "train" not in text(run_table(SUMMARY))


def test_a_task_without_metrics_is_shown_by_its_loss() -> None:
    metrics = {**SUMMARY.metrics, "test/extra/loss": 0.125}
    summary = replace(SUMMARY, tasks=["left", "sum", "extra"], metrics=metrics)
    row = next(line for line in text(run_table(summary)).splitlines() if "extra" in line)
    assert "loss" in row
    assert "0.1250" in row


def many_tasks(num: int) -> RunSummary:
    """Summary of a run with tasks that share their metric."""
    names = [f"a{k}" for k in range(num)]
    spec = MetricDisplay("higher", True)
    return replace(
        SUMMARY,
        tasks=names,
        metric_specs={f"{name}/f1": spec for name in names},
        statistic_specs={
            **{f"{name}_f1": spec for name in ("min", "median", "mean")},
            "std_f1": MetricDisplay(None, True),
        },
        metrics={
            **{f"test/{name}/f1": 0.5 for name in names},
            "test/min_f1": 0.25,
            "test/median_f1": 0.5,
            "test/mean_f1": 0.625,
            "test/std_f1": 0.125,
        },
    )


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


def test_sweep_table_shows_many_tasks_by_their_statistics() -> None:
    for num in (2, 10, 11, 40):
        summary = many_tasks(num)
        heads = sweep_table([("0", summary), ("1", None)]).heads
        tasks = [f"a{k} f1 % ↑" for k in range(num)] if num <= 10 else []
        assert heads[4:] == [*tasks, "min f1 % ↑", "median f1 % ↑", "mean f1 % ↑", "std f1 %"]
        assert "62.50" in text(sweep_table([("0", summary)]))


def test_many_metrics_without_statistics_are_all_shown() -> None:
    summary = replace(many_tasks(12), statistic_specs={})
    assert len(sweep_table([("0", summary)]).heads) == 3 + 12


def test_sweep_table_shows_only_the_overrides_in_which_cells_differ() -> None:
    cells = [replace(SUMMARY, overrides=[f"seed={seed}", "logger=none"]) for seed in (0, 1)]
    assert common_overrides(cells) == ["logger=none"]
    assert common_overrides(cells[:1]) == []
    table = sweep_table([("0", cells[0]), ("1", cells[1])])
    assert table.heads[:2] == ["cell", "seed"]
    assert [row[1].text for row in table.rows] == ["0", "1"]
    assert "logger" not in text(table)


def test_a_searched_value_is_shown_and_the_best_one_marked() -> None:
    key = "val/geomean_loss"
    values = (0.5, 0.25, None)
    cells = [
        replace(
            SUMMARY,
            select=key,
            metrics={**SUMMARY.metrics, key: value},
            overrides=[f"model_optimizer.lr=0.00{n}483457822302989"],
        )
        for n, value in enumerate(values, 1)
    ]
    for direction, best in (("min", 1), ("max", 0)):
        table = sweep_table([(str(n), cell) for n, cell in enumerate(cells)], direction)
        column = table.heads.index(f"searched {key}")
        assert [row[column].rank for row in table.rows].index(1) == best
        assert [row[column].text for row in table.rows] == ["0.5000", "0.2500", "-"]
        drawn = [row[table.heads.index("model_optimizer.lr")].text for row in table.rows]
        assert drawn == ["0.001483", "0.002483", "0.003483"]


def test_a_sweep_leaves_all_its_numbers_with_all_digits(tmp_path: Path) -> None:
    cells = [
        ("0", replace(SUMMARY, overrides=["seed=0", "model_optimizer.lr=0.0012345678901234567"])),
        ("1", RunSummary(status="failed", overrides=["seed=1", "~x"])),
        ("2", None),
    ]
    table = sweep_table(cells)
    write_sweep(tmp_path, cells, table, ["In all cells: a=b"])
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["cell"] for row in rows] == ["0", "1", "2"]
    assert [row["status"] for row in rows] == ["finished", "failed", "no result"]
    assert rows[0]["model_optimizer.lr"] == "0.0012345678901234567"
    assert {key: float(rows[0][key]) for key in SUMMARY.metrics} == pytest.approx(
        SUMMARY.metrics, rel=0, nan_ok=True
    )
    assert {rows[1][key] for key in SUMMARY.metrics} == {""}
    markdown = (tmp_path / "sweep.md").read_text()
    assert markdown.startswith("# 3 cells on toy: test metrics of the selected epoch\n")
    assert markdown.endswith("\n\nIn all cells: a=b\n")


def test_sweep_table_has_a_row_for_every_cell_even_where_a_run_left_nothing() -> None:
    failed = RunSummary(status="failed", overrides=["method=vanilla"])
    table = text(sweep_table([("0", SUMMARY), ("1", failed), ("2", None)]))
    rows = {line.split()[1]: line for line in table.splitlines() if line.startswith("│")}
    assert "finished" in rows["0"]
    assert "90.00" in rows["0"]
    assert "failed" in rows["1"]
    assert "vanilla" in rows["1"]
    assert "no result" in rows["2"]


def test_sweep_table_shows_what_cells_are_chosen_by_and_numbers_of_finished_cells_alone() -> None:
    key = "val/geomean_loss"
    finished = replace(SUMMARY, select=key)
    failed = replace(finished, status="failed")
    nan = replace(finished, metrics={**SUMMARY.metrics, key: None})
    table = text(sweep_table([("0", finished), ("1", failed), ("2", nan), ("3", None)]))
    assert f"selected by {key}" in table
    (heads,) = (line for line in table.splitlines() if line.startswith("┃"))
    rows = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    place = [head.strip() for head in heads.split("┃")].index(f"selected by {key}")
    cells = [[cell.strip() for cell in row[place : place + 2]] for row in rows]
    assert cells == [["0.5000", "90.00"], ["-", "-"], ["-", "-"], ["-", "-"]]
    assert [row[2].strip() for row in rows] == [
        "finished",
        "failed",
        f"no finite {key}",
        "no result",
    ]


def test_brackets_of_overrides_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["tasks=[left,right]", "+heads.sum.hidden=[/bold]"]
    odd = replace(SUMMARY, overrides=overrides, data="[x]")
    print_grid(sweep_table([("0", odd)]))
    print_grid(run_table(odd))
    printed = capsys.readouterr().out
    assert "[left,right]" in printed
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
    assert remarks(["a subset", "a subset", "Estimated."]) == [
        "Note: a subset.",
        "Note: Estimated.",
    ]


def test_training_time_says_how_much_of_it_waited_for_data() -> None:
    assert training_time(RunSummary(train_s=20.0, data_s=1.0)) == (
        "Training steps took 20.0 s, 5.0 % of it waiting for data."
    )
    assert "took 2.00 h, 0.0 %" in training_time(RunSummary(train_s=7200.0, data_s=0.0))
    assert "took 0.0 s, 0.0 %" in training_time(RunSummary(train_s=0.0, data_s=0.0))
