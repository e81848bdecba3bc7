"""`rotograd table`: from run directories to a table, matched to a specification or as they are."""

import csv
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import SMOKE, Cli, Result, run_in

pytestmark = pytest.mark.xdist_group("table")  # what is trained once serves all tests
TINY = (*SMOKE, "data.partners=1", "tasks=[left,sum]")
SPEC = """# Two rows of the embedded digits.
name: mini
title: Mini
tasks: [left, sum]
overrides: [debug=smoke, logger=none, train.eval_batch_size=20, data.partners=1]
seeds: 2
base: single
delta: paper
rows:
  single: {label: Single, overrides: [method=vanilla], per_task: true, shown: true}
  vanilla: {label: Vanilla, overrides: [method=vanilla], shown: true}
  rotograd: {label: RotoGrad, overrides: [method=rotograd], shown: true}
columns:
  gain: {label: Δ, delta_of: [left, sum]}
  sum: {metric: sum/mse}
paper:
  source: a source
  rows:
    rotograd: {gain: [2.12, 2.23]}
"""
SHARED = """# The shared rows, and one of its own.
defaults:
  - rows: [single, methods]
  - _self_
name: mine
title: Mine
tasks: [left, sum]
seeds: 2
rows:
  mgda: {label: MGDA}
  wide: {overrides: [method=rotograd, method.rotation_shape=50]}
columns:
  sum: {metric: sum/mse}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods and single-task networks, two seeds each."""
    root = tmp_path_factory.mktemp("runs")
    both = ("-m", "method=vanilla,rotograd", "seed=0,1", "hydra.sweep.dir=both")
    run_in(root, "train", *TINY, *both)
    alone = ("-m", "method=vanilla", "seed=0,1", "tasks=[left],[sum]", "hydra.sweep.dir=alone")
    run_in(root, "train", *TINY[:-1], *alone)
    (root / "conf" / "table").mkdir(parents=True)
    (root / "conf" / "table" / "mini.yaml").write_text(SPEC, encoding="utf-8")
    return root


@pytest.fixture
def own_runs(cli: Cli, runs: Path, tmp_path: Path) -> Path:
    """A copy to damage, in the working directory."""
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    return tmp_path


def metric(folder: Path, key: str) -> float:
    value = json.loads((folder / "summary.json").read_text())["metrics"][f"test/{key}"]
    return float(value)


def matched(cli: Cli, *words: str) -> Result:
    return cli("table", "table=mini", "--config-dir", "conf", "output=out", *words)


def cells(folder: Path) -> dict[tuple[str, str, int], float]:
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        return {
            (line["row"], line["column"], int(line["seed"])): float(line["value"])
            for line in csv.DictReader(file)
        }


def written(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_runs_are_matched_to_the_rows_of_a_table(cli: Cli, own_runs: Path) -> None:
    result = matched(cli, "runs=.")
    assert result.code == 0, result.err
    found = cells(own_runs / "out")
    assert found["vanilla", "sum", 0] == metric(own_runs / "both" / "0", "sum/mse")
    assert found["rotograd", "sum", 1] == metric(own_runs / "both" / "3", "sum/mse")
    assert found["single", "sum", 1] == metric(own_runs / "alone" / "3", "sum/mse")
    for seed, cell, left, total in ((0, "2", "0", "1"), (1, "3", "2", "3")):
        gains = []
        for key, single, sign in (("left/accuracy", left, 1), ("sum/mse", total, -1)):
            base = metric(own_runs / "alone" / single, key)
            gains.append(sign * 100 * (metric(own_runs / "both" / cell, key) - base) / base)
        assert found["rotograd", "gain", seed] == pytest.approx(statistics.fmean(gains))
    assert "2.12 ± 2.23" in result.out
    assert "Difference" in result.out
    assert "printed numbers, a source" in result.out
    assert sorted(path.name for path in (own_runs / "out").iterdir()) == [
        "table.csv",
        "table.json",
        "table.md",
        "table.tex",
    ]
    assert "Incomplete" not in result.out
    assert "Not the table's own setting" not in result.out


def test_a_table_of_the_users_takes_the_shared_rows_and_says_what_differs(
    cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "conf" / "table").mkdir(parents=True)
    (tmp_path / "conf" / "table" / "mine.yaml").write_text(SHARED, encoding="utf-8")
    result = cli("table", "table=mine", "--config-dir", "conf", "runs=.", "--cfg", "job")
    rows = yaml.safe_load(result.out)["table"]["rows"]
    assert list(rows)[:2] == ["single", "vanilla"]
    assert rows["mgda"] == {**rows["vanilla"], "label": "MGDA", "overrides": ["method=mgda"]}
    assert list(rows)[-1] == "wide"


def test_without_a_table_rows_are_the_settings_that_were_run(cli: Cli, own_runs: Path) -> None:
    result = cli("table", "runs=.", "output=out")
    assert result.code == 0, result.err
    content = written(own_runs / "out")
    labels = [row["label"] for row in content["rows"]]
    assert sorted(labels) == ["RotoGrad", "Vanilla", "Vanilla, one task at a time"]
    assert [column["label"] for column in content["columns"]] == [
        "Δ",
        "left accuracy",
        "sum mse",
        "geometric mean of losses",
    ]
    assert content["statistic"] == "mean_std"
    assert content["compare_with"] == "Vanilla"
    found = cells(own_runs / "out")
    accuracies = [100 * metric(own_runs / "both" / cell, "left/accuracy") for cell in "23"]
    centre = next(r for r in content["rows"] if r["name"] == "RotoGrad")["cells"]["left/accuracy"]
    assert centre["centre"] == pytest.approx(statistics.fmean(accuracies))
    assert [found["RotoGrad", "left/accuracy", seed] for seed in (0, 1)] == accuracies


def test_a_sweep_of_one_method_over_an_option_has_a_row_per_value(cli: Cli, own_runs: Path) -> None:
    grid = ("-m", "method=rotograd", "method.burn_in_period=1,5", "seed=0,1")
    assert cli("train", *TINY, *grid, "hydra.sweep.dir=option").code == 0
    assert cli("table", "runs=option", "output=out").code == 0
    content = written(own_runs / "out")
    assert [row["label"] for row in content["rows"]] == [
        "RotoGrad, method.burn_in_period=1",
        "RotoGrad, method.burn_in_period=5",
    ]
    assert content["compare_with"] is None
    result = cli("table", "runs=[option,both]", "methods=[Vanila]")
    assert result.code == 2
    assert "did you mean Vanilla?" in result.err
    result = cli("table", "runs=[option,both]", "methods=[rotograd]")
    assert result.code == 0, result.err
    assert "Vanilla" not in result.out


def test_nothing_is_written_without_output(cli: Cli, own_runs: Path) -> None:
    before = sorted(own_runs.rglob("*"))
    assert cli("table", "runs=both").code == 0
    assert sorted(own_runs.rglob("*")) == before


def test_patterns_name_runs_or_folders_above_them(cli: Cli, own_runs: Path) -> None:
    outputs = [
        cli("table", f"runs={pattern}").out for pattern in ("both", "both/*", "bo*", "[both/*]")
    ]
    assert len(set(outputs)) == 1
    assert "RotoGrad" in outputs[0]
    assert "one task at a time" not in outputs[0]


def test_seeds_methods_and_statistic_can_be_chosen(cli: Cli, own_runs: Path) -> None:
    result = matched(cli, "runs=.", "seeds=[1]", "methods=[rotograd]", "statistic=mean_ci95")
    assert result.code == 0, result.err
    assert {key[::2] for key in cells(own_runs / "out")} == {("rotograd", 1)}
    assert written(own_runs / "out")["statistic"] == "mean_ci95"
    assert cells(own_runs / "out").keys() == {("rotograd", "gain", 1), ("rotograd", "sum", 1)}
    result = matched(cli, "runs=.", "seeds=3")
    assert "Incomplete: RotoGrad, 2 of 3 seeds (seed 2: no run)." in result.out


def test_unfinished_runs_are_named_and_their_row_is_marked(cli: Cli, own_runs: Path) -> None:
    killed = own_runs / "both" / "3"
    (killed / "summary.json").unlink()
    refused = own_runs / "both" / "9"
    refused.mkdir()
    (refused / "summary.json").write_text(json.dumps({"status": "failed", "overrides": ["x=1"]}))
    result = matched(cli, "runs=.")
    assert result.code == 0, result.err
    assert "RotoGrad (1 of 2 seeds)" in result.out
    assert "Incomplete: RotoGrad, 1 of 2 seeds (seed 1: no summary)." in result.out
    assert "both/9 (failed)" in result.out
    result = cli("table", "runs=both")
    assert "Runs that did not begin: both/9 (failed)." in result.out
    assert "RotoGrad (1 of 2 seeds)" in result.out


def test_a_task_that_lacks_its_run_makes_the_seed_missing(cli: Cli, own_runs: Path) -> None:
    shutil.rmtree(own_runs / "alone" / "3")
    result = matched(cli, "runs=.")
    assert "Incomplete: Single, 1 of 2 seeds (seed 1: sum: no run)." in result.out
    assert ("rotograd", "gain", 1) not in cells(own_runs / "out")
    assert ("rotograd", "gain", 0) in cells(own_runs / "out")


def test_of_two_runs_of_a_cell_the_newest_finished_one_counts(cli: Cli, own_runs: Path) -> None:
    shutil.copytree(own_runs / "both" / "2", own_runs / "again")
    path = own_runs / "again" / "summary.json"
    summary = json.loads(path.read_text())
    summary["started"] = "2999-01-01T00:00:00+00:00"
    summary["metrics"]["test/sum/mse"] = 12345.0
    path.write_text(json.dumps(summary))
    result = matched(cli, "runs=.")
    assert result.code == 0, result.err
    assert cells(own_runs / "out")["rotograd", "sum", 0] == 12345.0
    assert "1 cell was run several times; the newest run counts." in result.out
    summary["status"] = "running"
    path.write_text(json.dumps(summary))
    assert matched(cli, "runs=.").code == 0
    assert cells(own_runs / "out")["rotograd", "sum", 0] != 12345.0


def test_runs_of_a_row_with_different_settings_are_refused(cli: Cli, own_runs: Path) -> None:
    words = ("seed=0", "model_optimizer.lr=0.5", "hydra.run.dir=other")
    assert cli("train", *TINY, *words).code == 0
    result = matched(cli, "runs=.")
    assert result.code == 2
    assert "The runs of row 'rotograd' must have the same settings" in result.err
    assert "model_optimizer.lr: 0.001 (both/2), 0.5 (other); narrow" in result.err
    assert not (own_runs / "out").exists()
    result = matched(cli, "runs=other")
    assert result.code == 0
    assert "model_optimizer.lr 0.5 instead of 0.001" in result.out


def test_another_option_of_the_method_is_another_row(cli: Cli, own_runs: Path) -> None:
    words = ("seed=0", "method.init=identity", "hydra.run.dir=other")
    assert cli("train", *TINY, *words).code == 0
    result = matched(cli, "runs=.")
    assert result.code == 0, result.err
    assert "Runs of no row of this table: other (finished)." in result.out
    result = matched(cli, "runs=other")
    assert result.code == 2
    assert "got none: no row has their method" in result.err


WRONG = {
    "runs=nowhere": "`runs` must name run directories or folders that hold them",
    "runs=conf": "1 paths without a run below them",
    "": "`runs` needs a value",
    "run=both": "did you mean runs?",
    "runs=both statistic=median": "must be median_std or mean_std or mean_ci95",
    "runs=both seeds=0": "`seeds` must be a number of seeds of at least 1",
    "runs=both seeds=[1,1]": "`seeds` must be a number of seeds of at least 1",
    "runs=both seeds=x": "`seeds` must be a number of seeds of at least 1",
    "runs=null": "`runs` must be a path, a pattern or a list of them",
    "runs=[]": "`runs` must be a path, a pattern or a list of them",
    "runs=both table=multimist": "Did you mean multimnist?",
    "runs=both output=conf/table/mini.yaml": "`output` must be a folder",
    "runs=both output=''": "`output` must name a folder",
    "runs=both -m": "takes one configuration at a time",
    "runs=both methods=[x]": "`methods` must name rows of the table",
}


def test_wrong_input_costs_one_line(cli: Cli, own_runs: Path) -> None:
    before = sorted(own_runs.rglob("*"))
    for words, expected in WRONG.items():
        result = cli("table", *words.split())
        assert result.code == 2, words
        assert expected in result.err
        assert result.err.count("\n") == 1
        assert sorted(own_runs.rglob("*")) == before, words


def test_a_misspelt_row_of_a_table_is_refused(cli: Cli, own_runs: Path) -> None:
    result = matched(cli, "runs=.", "methods=[rotogard]")
    assert (result.code, "did you mean rotograd?" in result.err) == (2, True)
    result = matched(cli, "runs=.", "+table.rows.vanilla.lable=x")
    assert (result.code, "did you mean table.rows.vanilla.label?" in result.err) == (2, True)


def test_runs_of_two_data_sets_need_a_choice(cli: Cli, own_runs: Path) -> None:
    words = ("data=synthetic", "backbone=mlp", "hydra.run.dir=synthetic")
    assert cli("train", *SMOKE, *words).code == 0
    result = cli("table", "runs=.")
    assert result.code == 2
    assert "`runs` must be of one data set, got" in result.err


def test_rows_can_be_named_by_key_or_label(cli: Cli, own_runs: Path) -> None:
    for words in (["table=mini", "--config-dir", "conf"], []):
        tables = [
            cli("table", "runs=both", *words, f"methods=[{n}]") for n in ("rotograd", "RotoGrad")
        ]
        assert {table.code for table in tables} == {0}
        assert len({table.out for table in tables}) == 1


def test_runs_of_other_networks_are_told_from_those_of_a_table(cli: Cli, own_runs: Path) -> None:
    result = matched(cli, "runs=both", "table.overrides=['backbone=mlp']")
    assert result.code == 2
    assert "backbone._target_ is rotograd_cli.models.backbones." in result.err


def test_runs_of_which_none_finished_are_refused(cli: Cli, own_runs: Path) -> None:
    path = own_runs / "both" / "0" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running"}))
    result = cli("table", "runs=both/0")
    assert result.code == 2
    assert "must name a finished run, got both/0 (running)" in result.err
    result = cli("table", "runs=both", "seeds=[7]")
    assert "must name a finished run, got none." in result.err
