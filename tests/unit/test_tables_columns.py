"""Kinds of columns, against loops and printed tables."""

import csv
import io
import statistics
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rotograd_cli.errors import ConfigError
from rotograd_cli.figures.boxes import Boxes
from rotograd_cli.tables.formats import to_csv, to_json, value_grid
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.runs import RunKey
from rotograd_cli.tables.table import build_table
from tests.fake_runs import collected, fake_summary, to_table_spec

FAMO = """
LS       39.29 65.33 0.5493 0.2263 28.15 23.96 22.09 47.50 61.08  8.89
SI       38.45 64.27 0.5354 0.2201 27.60 23.37 22.53 48.57 62.32  7.89
RLW      37.17 63.77 0.5759 0.2410 28.27 24.18 22.26 47.05 60.62 11.22
DWA      39.11 65.31 0.5510 0.2285 27.61 23.18 24.17 50.18 62.39  7.67
UW       36.87 63.17 0.5446 0.2260 27.04 22.61 23.54 49.05 63.65  7.44
MGDA     30.47 59.90 0.6070 0.2555 24.88 19.45 29.18 56.88 69.36  6.00
PCGrad   38.06 64.64 0.5550 0.2325 27.41 22.80 23.86 49.83 63.14  8.00
GradDrop 39.39 65.12 0.5455 0.2279 27.48 22.96 23.38 49.44 62.87  7.00
CAGrad   39.79 65.49 0.5486 0.2250 26.31 21.58 25.61 52.36 65.58  4.56
IMTL-G   39.35 65.60 0.5426 0.2256 26.02 21.19 26.20 53.13 66.24  3.78
Nash-MTL 40.13 65.93 0.5261 0.2171 25.26 20.08 28.40 55.47 68.15  2.11
FAMO     38.88 64.90 0.5474 0.2194 25.06 19.57 29.21 56.61 68.98  3.44
"""
"""NYUv2 as FAMO (Liu et al., NeurIPS 2023) prints it: nine metrics and the mean rank MR."""
WAYS = ("higher", "higher", "lower", "lower", "lower", "lower", "higher", "higher", "higher")


def cell(table: Table, row: str, column: str) -> Any:
    return next(r for r in table.rows if r.name == row).cells[column]


def head(table: Table, name: str) -> Any:
    return next(column for column in table.columns if column.name == name)


def make_table(
    metrics: dict[str, dict[int, dict[str, float]]],
    specs: dict[str, Any],
    columns: dict[str, Any],
    **options: Any,
) -> Table:
    """A table of rows with these metrics by seed."""
    seeds = max(len(by_seed) for by_seed in metrics.values())
    rows = {row: {"shown": True, "per_task": row == "single"} for row in metrics}
    tasks = list(dict.fromkeys(key.split("/")[0] for key in specs))
    content = {"name": "t", "title": "T", "seeds": seeds, "rows": rows, "columns": columns}
    content |= {"tasks": tasks, "compare_with": None, **options}
    spec = to_table_spec(content)
    runs = {}
    for row, by_seed in metrics.items():
        for seed, values in by_seed.items():
            if row == "single":
                for task in tasks:
                    of_task = {k: v for k, v in values.items() if k.startswith(f"{task}/")}
                    summary = fake_summary(of_task, seed, metric_specs=specs)
                    runs[RunKey(row, seed, task)] = summary
            else:
                runs[RunKey(row, seed)] = fake_summary(values, seed, metric_specs=specs)
    return build_table(spec, collected(spec, runs))


# -- mean rank ---------------------------------------------------------------------------------


def test_the_mean_rank_is_that_of_a_printed_table() -> None:
    names = [f"task/m{i}" for i in range(9)]
    printed = {}
    metrics = {}
    for line in FAMO.split("\n")[1:-1]:
        row, *numbers = line.split()
        printed[row] = float(numbers.pop())
        metrics[row] = {0: dict(zip(names, map(float, numbers), strict=True))}
    specs = {name: {"better": way, "percent": False} for name, way in zip(names, WAYS, strict=True)}
    columns: dict[str, Any] = {"mr": {"label": "MR", "mean_rank_of": [f"m{i}" for i in range(9)]}}
    columns |= {f"m{i}": {"metric": name} for i, name in enumerate(names)}
    table = make_table(metrics, specs, columns)
    shown = {row: round(cell(table, row, "mr").centre, 2) for row in printed}
    assert shown == printed
    assert cell(table, "Nash-MTL", "mr").rank == 1
    assert (head(table, "mr").better, head(table, "mr").digits) == ("lower", 2)
    assert "2.11" in value_grid(table).rows[10][1].text
    assert '"mr"' in to_json(table)
    assert not [line for line in csv.reader(io.StringIO(to_csv(table))) if line[1] == "mr"]


SPECS = {
    "a/mse": {"better": "lower", "percent": False},
    "b/accuracy": {"better": "higher", "percent": True},
}
RANKED = {
    "a": {"metric": "a/mse"},
    "b": {"metric": "b/accuracy"},
    "rank": {"mean_rank_of": ["a", "b"]},
}


def test_mean_ranks_take_the_statistic_over_seeds_and_share_ties() -> None:
    metrics = {
        "x": {0: {"a/mse": 1.0, "b/accuracy": 0.5}, 1: {"a/mse": 9.0, "b/accuracy": 0.5}},
        "y": {0: {"a/mse": 4.0, "b/accuracy": 0.5}, 1: {"a/mse": 4.0, "b/accuracy": 0.5}},
        "z": {0: {"a/mse": 6.0, "b/accuracy": 0.4}, 1: {"a/mse": 6.0, "b/accuracy": 0.4}},
    }
    table = make_table(metrics, SPECS, RANKED)
    centres = {row: cell(table, row, "rank").centre for row in metrics}
    # a: medians 5, 4, 6; b: x and y share places 1 and 2
    assert centres == {"x": (2 + 1.5) / 2, "y": (1 + 1.5) / 2, "z": 3.0}
    assert cell(table, "x", "rank").spread is None
    assert cell(table, "x", "rank").values == {}


def test_rows_that_lack_a_column_have_no_rank_and_others_are_ranked_without_them() -> None:
    values = {"a/mse": 1.0, "b/accuracy": 0.9}
    metrics = {
        "single": {0: {"a/mse": 0.1, "b/accuracy": 0.99}},
        "best": {0: {"a/mse": 0.5}},
        "x": {0: values},
        "y": {0: {"a/mse": 2.0, "b/accuracy": 0.8}},
    }
    table = make_table(metrics, SPECS, RANKED, base="single", delta="paper")
    centres = {row: cell(table, row, "rank").centre for row in metrics}
    assert centres == {"single": None, "best": None, "x": 1.0, "y": 2.0}
    assert [cell(table, row, "a").rank for row in metrics] == [None, 1, 2, None]
    assert any("single-task networks aside" in note for note in table.footnotes)


def test_a_mean_rank_needs_two_rows_and_directions() -> None:
    one = {"x": {0: {"a/mse": 1.0, "b/accuracy": 0.9}}}
    assert cell(make_table(one, SPECS, RANKED), "x", "rank").centre is None
    without = {**SPECS, "a/mse": {"better": None, "percent": False}}
    with pytest.raises(ConfigError, match="with a better end, got 'a' without one; leave it out"):
        make_table(one, without, RANKED)


def test_boxes_need_a_value_of_every_seed() -> None:
    spec = to_table_spec(
        {
            "name": "t",
            "title": "T",
            "seeds": 1,
            "rows": {"x": {}},
            "columns": RANKED,
            "compare_with": None,
        }
    )
    boxes = Boxes(name="b", table="t", columns=["rank"], title="", x_label="", y_label="")
    with pytest.raises(ConfigError, match=r"got \['rank'\]; choose from a, b"):
        boxes.columns_of(spec)


# -- gains over tasks --------------------------------------------------------------------------


def test_gains_are_joined_over_tasks_before_seeds() -> None:
    rng = np.random.default_rng(0)
    tasks = ["a", "b", "c", "d"]
    specs = {f"{task}/f1": {"better": "higher", "percent": True} for task in tasks}
    draws = rng.uniform(0.5, 1.0, (2, 3, 4))  # row, seed, task
    metrics = {
        row: {s: {f"{t}/f1": draws[i, s, k] for k, t in enumerate(tasks)} for s in range(3)}
        for i, row in enumerate(("single", "x"))
    }
    columns = {over: {"delta_of": tasks, "over": over} for over in ("mean", "median", "max")}
    table = make_table(metrics, specs, columns, base="single", delta="paper")
    for over in columns:
        of_seeds = []
        for s in range(3):
            gains = sorted(100 * (draws[1, s, k] / draws[0, s, k] - 1) for k in range(4))
            middle = (gains[1] + gains[2]) / 2
            of_seeds.append({"mean": sum(gains) / 4, "median": middle, "max": gains[3]}[over])
        assert list(cell(table, "x", over).values.values()) == pytest.approx(of_seeds)
        assert cell(table, "x", over).centre == pytest.approx(statistics.median(of_seeds))
    assert any(note.startswith("median: of each seed the median") for note in table.footnotes)


def test_a_gain_that_is_not_a_number_makes_any_join_so() -> None:
    specs = {f"{task}/f1": {"better": "higher", "percent": True} for task in ("a", "b")}
    metrics = {"single": {0: {"a/f1": 0.0, "b/f1": 0.5}}, "x": {0: {"a/f1": 0.5, "b/f1": 0.6}}}
    columns = {over: {"delta_of": ["a", "b"], "over": over} for over in ("mean", "median", "max")}
    table = make_table(metrics, specs, columns, base="single", delta="paper")
    assert [cell(table, "x", over).centre for over in columns] == [None] * 3


def test_nash_has_no_maximum_over_tasks() -> None:
    tasks = ["segmentation", "depth", "normals"]
    columns = {"gain": {"delta_of": tasks, "over": "max"}}
    content = {"name": "t", "title": "T", "seeds": 1, "rows": {"x": {}}, "columns": columns}
    with pytest.raises(ConfigError, match="must be mean, as the convention nash defines no other"):
        to_table_spec({**content, "compare_with": None, "delta": "nash"})


# -- counts ------------------------------------------------------------------------------------


def test_counts_are_of_seeds_within_the_bound_and_compared_as_by_mcnemar() -> None:
    distances = {"x": [0.1] * 9 + [0.5], "y": [2.0] * 8 + [0.2, 0.3]}
    metrics = {row: {s: {"a/mse": v} for s, v in enumerate(of)} for row, of in distances.items()}
    specs = {"a/mse": {"better": "lower", "percent": False}}
    columns = {"reached": {"metric": "a/mse", "count_within": 0.5}}
    table = make_table(metrics, specs, columns, compare_with="x")
    texts = [row[1].text for row in value_grid(table).rows]
    assert texts == ["10 / 10", "2 / 10 ▼"]
    assert (cell(table, "x", "reached").rank, head(table, "reached").better) == (1, "higher")
    assert cell(table, "y", "reached").values[0] == 0.0
    difference = cell(table, "y", "reached").difference
    assert difference.mean == pytest.approx(-0.8)
    # of 0 and 1 the sign-flip test is McNemar's exact test: 8 discordant pairs, all one way
    assert difference.p == pytest.approx(stats.binomtest(0, 8).pvalue)
    assert any("at most 0.5" in note for note in table.footnotes)


def test_the_bound_of_a_count_is_in_the_metrics_own_unit() -> None:
    metrics = {"x": {0: {"b/accuracy": 0.9}, 1: {"b/accuracy": 0.91}}}
    specs = {"b/accuracy": {"better": "higher", "percent": True}}
    columns = {"below": {"metric": "b/accuracy", "count_within": 0.9}}
    table = make_table(metrics, specs, columns)
    assert value_grid(table).rows[0][1].text == "1 / 2"


def test_a_count_leaves_out_seeds_without_a_number() -> None:
    metrics = {
        "x": {0: {"a/mse": 0.1}, 1: {"a/mse": float("nan")}},
        "y": {0: {"a/mse": 9.0}, 1: {"a/mse": 9.0}},
    }
    specs = {"a/mse": {"better": "lower", "percent": False}}
    columns = {"reached": {"metric": "a/mse", "count_within": 0.5}}
    table = make_table(metrics, specs, columns)
    assert value_grid(table).rows[0][1].text == "1 / 1 (1 of 2 seeds)"
    assert value_grid(table).rows[1][1].text == "0 / 2"
    assert cell(table, "x", "reached").rank is None


# -- intervals ---------------------------------------------------------------------------------


def test_intervals_are_those_of_students_t_and_absent_for_one_seed() -> None:
    values = [1.0, 2.0, 4.0, 7.0]
    specs = {"a/mse": {"better": "lower", "percent": False}}
    metrics = {"x": {s: {"a/mse": v} for s, v in enumerate(values)}}
    columns = {"a": {"metric": "a/mse"}}
    found = cell(make_table(metrics, specs, columns, statistic="mean_ci95"), "x", "a")
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.centre, found.spread) == pytest.approx((np.mean(values), (high - low) / 2))
    one = make_table({"x": {0: {"a/mse": 1.0}}}, specs, columns, statistic="mean_ci95")
    assert cell(one, "x", "a").spread is None
