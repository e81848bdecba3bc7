"""Runs that were measured on other data or in part, in tables of runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rotograd_cli.errors import ConfigError
from rotograd_cli.tables.cells import match_runs
from rotograd_cli.tables.command import TableCommand, table_of_runs
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.runs import RunKey, conditions, find_runs, read_run
from rotograd_cli.tables.table import build_table
from tests.fake_runs import collected, fake_config, fake_summary, to_table_spec, write_run

SIZES = {"train": 640, "val": 2000, "test": 80}
CUT = {"batch_size": 64, "eval_batch_size": 64, "limit_eval_batches": 1}


def put(
    root: Path, name: str, left: float, seed: int = 0, *, config: Any = None, **summary: Any
) -> Path:
    """A finished run: method and folder by name."""
    metrics = {"left/accuracy": left, "sum/mse": 4 * left, "geomean_loss": 1 - left}
    own = {"tasks": ["left", "sum"], "num_examples": SIZES, **summary}
    run = fake_summary(metrics, seed, **own)
    del run["method"]
    return write_run(root / f"{name}-{seed}", fake_config(seed, name, **(config or {})), run)


def table_of(root: Path) -> Table:
    return table_of_runs(TableCommand(runs=[str(root)]))


def ranks(table: Table, column: str) -> dict[str, int | None]:
    return {row.label: row.cells[column].rank for row in table.rows}


def warning(table: Table) -> str:
    found = [note for note in table.footnotes if note.startswith("Warning")]
    return found[0] if found else ""


@pytest.mark.parametrize(
    ("config", "summary", "said"),
    [
        ({}, {"data_fingerprint": "beef"}, "data: fingerprint f00d (A, C); fingerprint beef (B)"),
        ({"train": CUT}, {}, "whole splits (A, C); 64 of 2,000 val examples and 64 of 80 test"),
        ({"train": CUT}, {"num_evaluated": {"val": 2000, "test": 64}}, "; 64 of 80 test"),
        ({"train": {**CUT, "limit_eval_batches": 40}}, {}, ""),
        ({"train": CUT}, {"num_evaluated": SIZES}, ""),
    ],
)
def test_rows_that_were_not_measured_alike_are_neither_ranked_nor_compared(
    tmp_path: Path, config: Mapping[str, Any], summary: Mapping[str, Any], said: str
) -> None:
    for seed in (0, 1):
        put(tmp_path, "A", 0.5, seed)
        put(tmp_path, "B", 0.75, seed, config=config, **summary)
        put(tmp_path, "C", 0.625, seed)
    table = table_of(tmp_path)
    assert said in warning(table)
    expected = {"A": None, "B": None, "C": None} if said else {"A": None, "B": 1, "C": 2}
    assert ranks(table, "left/accuracy") == expected
    assert bool(warning(table)) == bool(said)


@pytest.mark.parametrize(
    ("config", "summary", "said"),
    [
        ({}, {"data_fingerprint": "beef"}, "data: fingerprint f00d ("),
        ({}, {"num_evaluated": {"val": 64, "test": 64}}, "evaluated: whole splits ("),
        ({}, {"select": "val/loss"}, ""),
    ],
)
def test_seeds_of_a_row_that_were_not_measured_alike_are_refused(
    tmp_path: Path, config: Mapping[str, Any], summary: Mapping[str, Any], said: str
) -> None:
    first = put(tmp_path, "A", 0.5)
    second = put(tmp_path, "A", 0.75, 1, config=config, **summary)
    if not said:
        path = second / "summary.json"
        content = json.loads(path.read_text())
        content["metrics"]["val/loss"] = 1.0
        path.write_text(json.dumps(content))
        assert len(table_of(tmp_path).rows) == 1
        return
    with pytest.raises(ConfigError, match="and be measured alike, got") as caught:
        table_of(tmp_path)
    assert said in str(caught.value)
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)


def test_a_cut_run_of_an_older_version_says_below_the_table_what_was_left_out(
    tmp_path: Path,
) -> None:
    put(tmp_path, "A", 0.5, config={"train": {**CUT, "limit_batches": 2}})
    notes = table_of(tmp_path).footnotes
    assert (
        "Note: Evaluated in part: 64 of 2,000 val examples and 64 of 80 test examples "
        "(train.limit_eval_batches)." in notes
    )
    assert "Note: Trained on 2 batches per epoch (train.limit_batches=2)." in notes


def test_a_run_that_says_it_itself_is_not_said_twice(tmp_path: Path) -> None:
    count = {"val": 64, "test": 64}
    folder = put(tmp_path, "A", 0.5, config={"train": CUT}, notes=["Cut."], num_evaluated=count)
    run = read_run(folder)
    assert run.notes == ["Cut."]
    assert conditions([run])["evaluated"] == "64 of 2,000 val examples and 64 of 80 test examples"


def test_limits_that_leave_nothing_out_are_no_note(tmp_path: Path) -> None:
    train = {**CUT, "limit_eval_batches": 40, "limit_batches": 10}
    run = read_run(put(tmp_path, "A", 0.5, config={"train": train}))
    assert run.notes == []


def test_a_table_by_name_leaves_out_runs_that_evaluate_another_part_and_names_them(
    tmp_path: Path,
) -> None:
    whole = put(tmp_path, "A", 0.5)
    cut = put(tmp_path, "A", 0.75, 1, config={"train": CUT})
    content = {
        "name": "toy",
        "title": "Toy",
        "seeds": 2,
        "compare_with": None,
        "rows": {"a": {"overrides": ["method=a"]}},
        "columns": {"left": {"metric": "left/accuracy"}},
    }
    spec, runs = to_table_spec(content), find_runs([str(tmp_path)])
    cells, notes = match_runs(spec, runs, {"a": fake_config(0, "A")})
    assert [[run.folder for run in found] for found in cells.values()] == [[whole]]
    (note,) = (note for note in notes if note.startswith("Left out"))
    assert str(cut) in note
    assert "64 of 80 test examples" in note
    cells, notes = match_runs(spec, runs, {"a": fake_config(0, "A", train=CUT)})
    assert [[run.folder for run in found] for found in cells.values()] == [[cut]]


def test_a_table_without_tasks_of_its_own_says_that_a_run_has_a_subset(tmp_path: Path) -> None:
    put(tmp_path, "A", 0.5, config={"tasks": ["left", "sum"]})
    content = {
        "name": "toy",
        "title": "Toy",
        "seeds": 1,
        "compare_with": None,
        "rows": {"a": {"overrides": ["method=a"]}},
        "columns": {"left": {"metric": "left/accuracy"}},
    }
    runs = find_runs([str(tmp_path)])
    _, notes = match_runs(to_table_spec(content), runs, {"a": fake_config(0, "A")})
    assert notes == ["Not the table's own setting: tasks [left,sum] instead of all."]


# -- selection ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_run_whose_epoch_was_selected_by_nothing_has_no_result(
    tmp_path: Path, value: float | None
) -> None:
    for seed, found in ((0, 0.5), (1, value)):
        folder = put(tmp_path, "A", 0.5, seed, select="val/geomean_loss")
        content = json.loads((folder / "summary.json").read_text())
        content["metrics"]["val/geomean_loss"] = found
        (folder / "summary.json").write_text(json.dumps(content))
    table = table_of(tmp_path)
    assert table.rows[0].missing == {1: "no finite val/geomean_loss"}
    assert table.rows[0].cells["left/accuracy"].values == {0: 50.0}
    with pytest.raises(ConfigError, match=r"A-1 \(no finite val/geomean_loss\)"):
        table_of(tmp_path / "A-1")


def put_selected(root: Path, name: str, seed: int, written: str, select: str) -> None:
    """A run with ``train.select`` as written, which turned out to be ``select``."""
    folder = put(root, name, 0.5, seed, config={"train": {"select": written}}, select=select)
    content = json.loads((folder / "summary.json").read_text())
    content["metrics"][select] = 0.25
    (folder / "summary.json").write_text(json.dumps(content))


def test_an_option_that_an_earlier_version_lacks_makes_a_row_and_loses_no_run(
    tmp_path: Path,
) -> None:
    put(tmp_path, "A", 0.5)
    put(tmp_path, "A", 0.75, 1, config={"option": None})
    rows = table_of(tmp_path).rows
    assert {row.label: row.num_seeds for row in rows} == {"A": 1, "A, option=null": 1}


def test_values_of_two_types_make_two_rows(tmp_path: Path) -> None:
    values = [1, "1", 1.0, True, "true", [None, "a"]]
    for index, value in enumerate(values):
        put(tmp_path, "A", 0.5, index, config={"option": value})
    labels = [row.label.removeprefix("A, option=") for row in table_of(tmp_path).rows]
    assert sorted(labels) == sorted(["1", '"1"', "1.0", "true", '"true"', "[null,a]"])


def test_rows_that_selected_by_different_metrics_are_named(tmp_path: Path) -> None:
    put_selected(tmp_path, "A", 0, "val/auto", "val/geomean_loss")
    put_selected(tmp_path, "B", 0, "val/auto", "val/relative_loss")
    put_selected(tmp_path, "C", 0, "val/geomean_loss", "val/geomean_loss")
    notes = table_of(tmp_path).footnotes
    assert "train.select: val/geomean_loss (A, C); val/relative_loss (B)." in notes


def test_a_row_that_trains_shorter_by_its_own_overrides_is_told_from_the_others() -> None:
    rows = {
        "whole": {"label": "Whole", "overrides": ["method=rotograd"], "shown": True},
        "short": {
            "label": "Short, rotation of 3",
            "overrides": ["method=rotograd", "train.epochs=1", "rotation.shape=3"],
            "shown": True,
        },
    }
    columns = {"left": {"metric": "left/accuracy"}}
    content = {"name": "t", "title": "T", "seeds": 1, "compare_with": None}
    spec = to_table_spec({**content, "rows": rows, "columns": columns})

    def run(**sections: Any) -> dict[str, Any]:
        return {**fake_summary({"left/accuracy": 0.5}), "config": sections}

    train = fake_config()["train"]
    results = collected(
        spec,
        {
            RunKey("whole", 0): run(train={**train, "epochs": 20}, rotation={"shape": None}),
            RunKey("short", 0): run(train={**train, "epochs": 1}, rotation={"shape": 3}),
        },
    )
    footnotes = build_table(spec, results).footnotes
    assert "Settings in which rows differ besides the method: train.epochs." in footnotes


def test_auto_is_the_same_setting_as_what_it_turned_out_to_be(tmp_path: Path) -> None:
    put_selected(tmp_path, "A", 0, "val/auto", "val/geomean_loss")
    put_selected(tmp_path, "A", 1, "val/geomean_loss", "val/geomean_loss")
    (row,) = table_of(tmp_path).rows
    assert row.num_seeds == 2


def test_a_table_takes_auto_as_the_losses_of_the_run_had_it(tmp_path: Path) -> None:
    put_selected(tmp_path, "A", 0, "val/auto", "val/relative_loss")
    put_selected(tmp_path, "B", 0, "val/left/accuracy", "val/left/accuracy")
    content = {
        "name": "toy",
        "title": "Toy",
        "seeds": 1,
        "compare_with": None,
        "rows": {name: {"overrides": [f"method={name}"]} for name in "AB"},
        "columns": {"left": {"metric": "left/accuracy"}},
    }
    expected = {n: fake_config(0, n, train={"select": "val/auto"}) for n in "AB"}
    _, notes = match_runs(to_table_spec(content), find_runs([str(tmp_path)]), expected)
    assert notes == [
        "Not the table's own setting: train.select val/left/accuracy instead of val/auto."
    ]
