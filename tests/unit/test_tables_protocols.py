"""Numbers of different protocols never share a column of a table, nor a panel of a figure."""

import json
from pathlib import Path
from typing import Any

import pytest

from rotograd_cli.errors import ConfigError
from rotograd_cli.figures.boxes import Boxes
from rotograd_cli.figures.keys import default_keys
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.sweep import sweep_table
from rotograd_cli.tables.command import TableCommand, table_of_runs
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.results import collect
from rotograd_cli.tables.rows import read_rows
from rotograd_cli.tables.runs import RunKey, find_runs
from rotograd_cli.tables.table import build_table
from tests.fake_runs import collected, fake_config, fake_summary, to_table_spec, write_run

METRICS = {"segmentation/miou": 0.5, "depth/abs_err": 0.5, "geomean_loss": 1.0}
TASKS = ["segmentation", "depth"]


def put(
    root: Path, method: str, protocol: str | None, error: float, seed: int = 0, **summary: Any
) -> Path:
    """A finished run, the protocol of its depth, and its error there."""
    depth: dict[str, Any] = {"better": "lower", "percent": False}
    miou = {"better": "higher", "percent": False, "protocol": None}
    if protocol is not None:
        depth["protocol"] = protocol
    run = fake_summary({**METRICS, "depth/abs_err": error}, seed, tasks=TASKS, **summary)
    run["metric_specs"] = {"segmentation/miou": miou, "depth/abs_err": depth}
    num_averaged = summary.get("averaged_epochs")
    data = {"_target_": "toy.Toy", "protocol": protocol}
    train = {**fake_config()["train"], "average_last_epochs": num_averaged}
    config = fake_config(seed, method, data=data, train=train)
    folder = write_run(root / (f"{method}{seed}" if seed else method), config, run)
    (folder / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "epoch": 1, "val/depth/abs_err": error, "val/segmentation/miou": 1})
        + "\n"
    )
    return folder


def put_all(root: Path) -> None:
    put(root, "A", "exact", 0.4)
    put(root, "B", "exact", 0.6)
    put(root, "C", "mtan_batch", 0.1)
    put(root, "D", "mtan_batch", 0.2)
    put(root, "E", "mtan_batch", 0.3, averaged_epochs=10)


def centres(table: Table, column: str) -> dict[str, float | None]:
    return {
        row.label[0]: row.cells[column].centre for row in table.rows if row.cells[column].values
    }


def test_a_column_has_numbers_of_one_protocol_and_is_ranked_within_it(tmp_path: Path) -> None:
    put_all(tmp_path)
    table = table_of_runs(TableCommand(runs=[str(tmp_path)]))
    labels = {column.name: column.label for column in table.columns}
    assert list(labels) == [
        "segmentation/miou (selected epoch)",
        "segmentation/miou (last 10 epochs)",
        "depth/abs_err (selected epoch, exact)",
        "depth/abs_err (selected epoch, mtan_batch)",
        "depth/abs_err (last 10 epochs, mtan_batch)",
        "geomean_loss (selected epoch)",
        "geomean_loss (last 10 epochs)",
    ]
    assert (
        labels["depth/abs_err (selected epoch, exact)"] == "depth abs_err (selected epoch, exact)"
    )
    assert set(centres(table, "segmentation/miou (selected epoch)")) == set("ABCD")
    assert centres(table, "depth/abs_err (selected epoch, exact)") == {"A": 0.4, "B": 0.6}
    assert centres(table, "depth/abs_err (selected epoch, mtan_batch)") == {"C": 0.1, "D": 0.2}
    ranks = {
        row.label[0]: row.cells["depth/abs_err (selected epoch, mtan_batch)"].rank
        for row in table.rows
    }
    assert ranks == {"A": None, "B": None, "C": 1, "D": 2, "E": None}
    assert any(
        "selected epoch, exact (A" in note and "mtan_batch (C" in note for note in table.footnotes
    )


def forget_protocols(folder: Path) -> None:
    """Make a run one of a version that did not record the protocol of its metrics."""
    content = json.loads((folder / "summary.json").read_text())
    for spec in content["metric_specs"].values():
        spec.pop("protocol", None)
    (folder / "summary.json").write_text(json.dumps(content))


@pytest.mark.parametrize("are_others_recorded", [False, True])
def test_what_an_earlier_version_recorded_is_measured_as_its_data_set_says(
    are_others_recorded: bool, tmp_path: Path
) -> None:
    for name, protocol in (("A", "exact"), ("B", "mtan_batch")):
        forget_protocols(put(tmp_path, name, protocol, 0.5))
        if are_others_recorded:
            put(tmp_path, f"new{name}", protocol, 0.5)
    table = table_of_runs(TableCommand(runs=[str(tmp_path)]))
    assert [column.name for column in table.columns] == [
        "segmentation/miou",
        "depth/abs_err (selected epoch, exact)",
        "depth/abs_err (selected epoch, mtan_batch)",
        "geomean_loss",
    ]


def test_seeds_of_an_earlier_version_are_seeds_of_their_row(tmp_path: Path) -> None:
    for seed in range(3):
        old = put(tmp_path, "A", "exact", 0.25 + 0.25 * seed, seed=seed)
        put(tmp_path, "B", "exact", 0.5 + 0.25 * seed, seed=seed)
        if seed < 2:
            forget_protocols(old)
    table = table_of_runs(TableCommand(runs=[str(tmp_path)]))
    assert [c.name for c in table.columns] == ["segmentation/miou", "depth/abs_err", "geomean_loss"]
    cells = [row.cells["depth/abs_err"] for row in table.rows]
    assert cells[0].values == {0: 0.25, 1: 0.5, 2: 0.75}
    assert cells[1].values == {0: 0.5, 1: 0.75, 2: 1.0}
    assert [cell.rank for cell in cells] == [1, 2]
    keys, _ = default_keys(read_rows(find_runs([str(tmp_path)])))
    assert keys == ["val/segmentation/miou", "val/depth/abs_err"]


def test_a_part_of_the_seeds_of_a_row_is_marked_and_not_ranked() -> None:
    rows = {"x": ["exact", "exact", None], "y": ["exact"] * 3, "z": ["exact"] * 3}
    content = {
        "name": "t",
        "title": "T",
        "seeds": 3,
        "compare_with": "z",
        "rows": {row: {"overrides": [], "shown": True} for row in rows},
        "columns": {"abs": {"metric": "depth/abs_err"}},
    }
    spec = to_table_spec(content)
    runs = {}
    for row, protocols in rows.items():
        for seed, protocol in enumerate(protocols):
            specs = {"depth/abs_err": {"better": "lower", "percent": False, "protocol": protocol}}
            values = {"depth/abs_err": 0.1 + 0.1 * seed + 0.1 * (row != "x")}
            runs[RunKey(row, seed)] = fake_summary(values, seed, metric_specs=specs)
    table = build_table(spec, collected(spec, runs))
    assert [c.name for c in table.columns] == [
        "abs (selected epoch, exact)",
        "abs (selected epoch)",
    ]
    for column, of_seeds in zip(table.columns, ("2 of 3 seeds", "1 of 3 seeds"), strict=True):
        cell = table.rows[0].cells[column.name]
        assert (cell.note, cell.rank) == (of_seeds, None)
    assert [row.cells[table.columns[0].name].rank for row in table.rows] == [None, 1, 1]
    assert any("another protocol" in note for note in table.footnotes)


def test_gains_mean_ranks_and_printed_numbers_keep_to_a_protocol(tmp_path: Path) -> None:
    put_all(tmp_path)
    put(tmp_path, "S", "exact", 0.8)
    runs = {RunKey(run.folder.name, 0): run for run in find_runs([str(tmp_path)])}
    content = {
        "name": "two",
        "title": "Two",
        "tasks": TASKS,
        "seeds": 1,
        "base": "S",
        "delta": "paper",
        "compare_with": None,
        "rows": {row: {"overrides": [], "shown": True} for row in "ABCDES"},
        "columns": {
            "abs": {"metric": "depth/abs_err"},
            "gain": {"delta_of": ["depth"]},
            "rank": {"mean_rank_of": ["abs"]},
            "hours": {"hours": True},
        },
        "paper": {"source": "N21", "rows": {"A": {"abs": 0.3}, "C": {"abs": 0.2}}},
    }
    spec = to_table_spec(content)
    table = build_table(spec, collect(spec, runs))
    assert [column.name for column in table.columns] == [
        "abs (selected epoch, exact)",
        "abs (selected epoch, mtan_batch)",
        "abs (last 10 epochs, mtan_batch)",
        "gain (selected epoch, exact)",
        "rank (selected epoch, exact)",
        "rank (selected epoch, mtan_batch)",
        "hours",
    ]
    assert centres(table, "gain (selected epoch, exact)") == {"A": 50.0, "B": 25.0}
    places = {
        row.name: [
            row.cells[f"rank (selected epoch, {protocol})"].centre
            for protocol in ("exact", "mtan_batch")
        ]
        for row in table.rows
    }
    assert places["A"] == [1.0, None]
    assert places["B"] == [2.0, None]
    assert places["C"] == [None, 1.0]
    assert places["D"] == [None, 2.0]
    assert [column.paper_label for column in table.columns[:2]] == ["abs (paper)", None]
    assert all(row.cells["abs (selected epoch, mtan_batch)"].paper is None for row in table.rows)


def test_a_sweep_shows_protocols_in_columns_of_their_own(tmp_path: Path) -> None:
    put_all(tmp_path)
    grid = sweep_table([(name, RunSummary.read(tmp_path / name)) for name in "ABCDE"])
    assert "of the selected epoch" not in grid.title
    column = grid.heads.index("depth abs_err ↓ (selected epoch, mtan_batch)")
    assert [row[column].text for row in grid.rows] == ["-", "-", "0.1000", "0.2000", "-"]


def test_a_figure_has_a_panel_for_each_protocol(tmp_path: Path) -> None:
    put_all(tmp_path)
    rows = read_rows(find_runs([str(tmp_path)]))
    keys, _ = default_keys(rows)
    assert keys == [
        "val/segmentation/miou",
        "val/depth/abs_err (exact)",
        "val/depth/abs_err (mtan_batch)",
    ]
    drawn = {row.label[0]: bool(row.with_key(keys[1])) for row in rows.rows}
    assert drawn == {"A": True, "B": True, "C": False, "D": False, "E": False}
    assert not any("Not comparable" in note for note in rows.notes)


def test_a_figure_of_one_column_takes_one_protocol(tmp_path: Path) -> None:
    put_all(tmp_path)
    table = table_of_runs(TableCommand(runs=[str(tmp_path)]))
    texts = dict.fromkeys(("name", "table", "title", "x_label", "y_label"), "any")
    figure = Boxes(columns=["x"], **texts)
    with pytest.raises(ConfigError, match=r"of one protocol, got .*narrow `runs`"):
        figure.draw(table)
