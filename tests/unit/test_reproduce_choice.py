"""What ``rotograd reproduce`` chooses from a finished grid, and what where there is nothing."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from rotograd_cli.cli import main
from rotograd_cli.commands.reproduction.cells import Cell
from rotograd_cli.commands.reproduction.estimate import plan_table
from rotograd_cli.commands.reproduction.reproduction import Reproduction
from rotograd_cli.commands.reproduction.search import Candidate, Search
from rotograd_cli.commands.reproduction.settings import parse
from rotograd_cli.tables.parts import Table
from tests.fake_runs import fake_summary
from tests.marks import slow_unless

SPEC = """
name: mini
title: Mini
tasks: [left, sum]
overrides: [debug=smoke, logger=none, data.partners=1, 'tasks=[left,sum]']
seeds: 2
compare_with: null
grid:
  values: {model_optimizer.lr: [0.001, 0.002, 0.004]}
  seeds: [0]
rows:
  vanilla: {label: Vanilla, overrides: [method=vanilla], shown: true}
  mgda: {label: MGDA, overrides: [method=mgda], shown: true}
columns:
  sum: {metric: sum/mse}
"""
WORDS = ("table=mini", "--config-dir", "conf")
KEY = "val/geomean_loss"
Value = Callable[[str, float], float | None]


def write_cells(cells: list[Cell], value: Value) -> None:
    """Finished runs, or unfinished ones where the value is -1, without training."""
    for cell in cells:
        found = value(cell.run.row, cell.point["model_optimizer.lr"])
        summary = fake_summary({"left/accuracy": 0.5, "sum/mse": 2.0}, cell.run.seed, select=KEY)
        summary["metrics"][KEY] = found
        summary["status"] = "running" if found == -1 else "finished"
        cell.run_dir.mkdir(parents=True, exist_ok=True)
        (cell.run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(cell.config)))
        (cell.run_dir / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def reproduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Value], Reproduction]:
    """A reproduction whose grid has these values, and whose chosen settings are all trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "table").mkdir(parents=True)
    (tmp_path / "conf" / "table" / "mini.yaml").write_text(SPEC)

    def run(value: Value) -> Reproduction:
        reproduction = Reproduction(parse("reproduce", WORDS))
        write_cells(reproduction.grid_cells, value)
        reproduction.refresh()
        write_cells([c for c in reproduction.final_cells if not c.finished], lambda *_: 1.0)
        reproduction.refresh()
        return reproduction

    return run


def chosen(reproduction: Reproduction) -> dict[str, float]:
    return {
        search.place[0]: search.best.point["model_optimizer.lr"]
        for search in reproduction.searches
        if search.best is not None
    }


@pytest.mark.parametrize("nothing", slow_unless([None], [None, math.nan, math.inf, -math.inf]))
def test_a_value_that_is_not_finite_is_no_candidate(
    reproduced: Callable[[Value], Reproduction], nothing: float | None
) -> None:
    values = {0.001: nothing, 0.002: 3.0, 0.004: 2.0}
    reproduction = reproduced(lambda row, rate: values[rate] if row == "vanilla" else rate)
    assert chosen(reproduction) == {"vanilla": 0.004, "mgda": 0.001}
    assert reproduction.failures() == [
        f"{cell.run_dir}: no finite {KEY}"
        for cell in reproduction.grid_cells
        if cell.run.row == "vanilla" and cell.point["model_optimizer.lr"] == 0.001
    ]
    notes = reproduction.table().footnotes
    assert (
        "Settings left out of the search, as a run failed or has no finite validation value: "
        "Vanilla 0.001." in notes
    )


def missing(table: Table) -> dict[str, dict[int, str]]:
    return {row.label: row.missing for row in table.rows}


def test_a_row_without_any_candidate_is_failed_and_has_no_numbers(
    reproduced: Callable[[Value], Reproduction], capsys: pytest.CaptureFixture[str]
) -> None:
    reproduction = reproduced(lambda row, rate: None if row == "vanilla" else rate)
    table = reproduction.table()
    reason = (
        "failed: no setting of the grid has a finite validation value at every seed, "
        "3 of 3 cells have none"
    )
    assert chosen(reproduction) == {"mgda": 0.001}
    assert missing(table) == {"Vanilla": {0: reason, 1: reason}, "MGDA": {}}
    assert table.rows[0].cells["sum"].centre is None
    assert f"Vanilla: {reason}" in reproduction.failures()
    assert main(["reproduce", *WORDS]) == 1  # finished runs alone: nothing is trained
    captured = capsys.readouterr()
    assert f"Incomplete: Vanilla, 0 of 2 seeds (seed 0, 1: {reason})." in captured.out
    assert f"failed: Vanilla: {reason}" in captured.err
    with Path("outputs/tables/mini/grid.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["row"] == "vanilla"]
    assert [(line["validation"], line["chosen"]) for line in lines] == [("", "0")] * 3


def test_a_row_whose_grid_is_not_finished_says_so(
    reproduced: Callable[[Value], Reproduction],
) -> None:
    reproduction = reproduced(lambda row, rate: -1 if row == "vanilla" else rate)
    assert missing(reproduction.table())["Vanilla"] == dict.fromkeys((0, 1), "grid not finished")


def test_equal_values_are_said(reproduced: Callable[[Value], Reproduction]) -> None:
    reproduction = reproduced(lambda row, rate: 0.0 if row == "vanilla" else rate)
    assert chosen(reproduction) == {"vanilla": 0.001, "mgda": 0.001}
    notes = reproduction.table().footnotes
    equal = "Chosen among settings with equal validation values, as the first of them"
    assert f"{equal}: Vanilla 0.001." in notes


def test_a_grid_that_was_compared_on_different_data_is_named(
    reproduced: Callable[[Value], Reproduction],
) -> None:
    reproduction = reproduced(lambda _, rate: rate)
    path = reproduction.grid_cells[-1].run_dir / "summary.json"
    path.write_text(path.read_text().replace("f00d", "beef"))
    notes = Reproduction(parse("reproduce", WORDS)).table().footnotes
    (note,) = (note for note in notes if "the data changed between the runs" in note)
    assert "(data_fingerprint in summary.json): MGDA." in note


def test_a_plan_counts_the_seeds_of_each_task_whose_grid_is_not_finished(
    reproduced: Callable[[Value], Reproduction],
) -> None:
    """Of MGDA's runs alone, one task's grid is finished and chosen, the other's not begun."""
    path = Path("conf/table/mini.yaml")
    path.write_text(path.read_text().replace("[method=mgda], ", "[method=mgda], per_task: true, "))
    first = Reproduction(parse("reproduce", WORDS))
    write_cells([c for c in first.grid_cells if c.run.task == "left"], lambda _, rate: rate)
    begun = Reproduction(parse("reproduce", WORDS))
    plan = plan_table(begun.planner, begun.searches, begun.final_cells, {})
    # left: the chosen one at seed 1; sum: three of the grid, and one of them at seed 1
    assert [entry.text for entry in plan.rows[1][:4]] == ["MGDA", "8", "3", "5"]


def test_the_mean_over_grid_seeds_decides() -> None:
    group = [
        Candidate({"lr": 1.0}, {0: 1.0, 1: 4.0}),
        Candidate({"lr": 2.0}, {0: 2.0, 1: 2.0}),
        Candidate({"lr": 3.0}, {0: 0.0, 1: math.nan}),  # failed at a seed: no choice
    ]
    assert Search(("a", None), group, "min").best is group[1]
    assert Search(("a", None), group, "max").best is group[0]


def test_a_setting_that_lacks_a_seed_is_no_candidate() -> None:
    group = [
        Candidate({"lr": 1.0}, {0: 1.0, 1: math.inf}),
        Candidate({"lr": 2.0}, {0: math.nan, 1: 1.0}),
    ]
    for mode in ("min", "max"):
        search = Search(("a", None), group, mode)
        assert search.best is None
        assert search.failure == (
            "failed: no setting of the grid has a finite validation value at every seed, 2 of 4 "
            "cells have none"
        )


def test_bars_of_equal_values_have_no_whiskers_below_zero() -> None:
    from matplotlib.figure import Figure

    from rotograd_cli.figures.gains import draw_bars
    from rotograd_cli.tables.colours import styles
    from rotograd_cli.tables.parts import Cell as Value
    from rotograd_cli.tables.parts import Column, Row

    values = dict.fromkeys(range(3), 0.1)
    centre = sum(values.values()) / 3  # rounding puts it above all values
    assert centre > 0.1
    row = Row("a", "A", {"gain": Value(values, centre, 0.0)}, 3, {}, ranked=True)
    column = Column("gain", "gain", "%", "higher", 2, None)
    table = Table("t", "T", "mean_std", [0, 1, 2], None, [column], [row], [])
    draw_bars(Figure().subplots(), table.rows, column, styles(["A"]))
