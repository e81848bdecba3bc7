"""From summaries to rows and seeds, and to gains in the three conventions."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from rotograd_cli.data.nyuv2.dataset import make_tasks
from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.tables.delta import BETTER, NASH_BASE, gains
from rotograd_cli.tables.footnotes import differing_settings
from rotograd_cli.tables.results import SeedResult
from rotograd_cli.tables.runs import RunKey, read_run
from rotograd_cli.tables.spec import TableSpec
from tests.fake_runs import collected, fake_run, fake_summary, to_table_spec


def spec(seeds: int = 2, **others: Any) -> TableSpec:
    return to_table_spec(
        {
            "name": "toy",
            "title": "Toy",
            "tasks": ["left", "sum"],
            "seeds": seeds,
            "base": "single",
            "delta": "paper",
            "rows": {
                "single": {"per_task": True, "shown": True},
                "vanilla": {"shown": True},
            },
            "columns": {"gain": {"delta_of": ["left", "sum"]}},
            **others,
        }
    )


def both(left: float, total: float, seed: int = 0, **others: Any) -> dict[str, Any]:
    return fake_summary({"left/accuracy": left, "sum/mse": total}, seed, **others)


def runs() -> dict[RunKey, dict[str, Any] | None]:
    """Two seeds of a row, and of single-task networks."""
    found: dict[RunKey, dict[str, Any] | None] = {}
    for seed in (0, 1):
        found[RunKey("vanilla", seed)] = both(0.9 + seed / 100, 2.0 + seed, seed)
        left = {"left/accuracy": 0.8, "left/loss": 4.0, "loss": 4.0, "geomean_loss": 4.0}
        total = {"sum/mse": 4.0, "sum/loss": 1.0, "loss": 1.0, "geomean_loss": 1.0}
        found[RunKey("single", seed, "left")] = fake_summary(left, seed)
        found[RunKey("single", seed, "sum")] = fake_summary(total, seed)
    return found


def test_runs_of_single_tasks_are_joined_into_one_result() -> None:
    results = collected(spec(), runs())
    joined = results.rows["single"][1]
    assert {str(key): value for key, value in joined.metrics.items()} == {
        "left/accuracy": 0.8,
        "left/loss": 4.0,
        "sum/mse": 4.0,
        "sum/loss": 1.0,
        "geomean_loss": pytest.approx(2.0),  # of both tasks: sqrt(4 * 1)
    }
    assert [run.summary.tasks for run in joined.runs] == [["left"], ["sum"]]
    assert results.rows["vanilla"][0].metrics[MetricKey.parse("left/accuracy")] == 0.9
    assert results.missing == {"single": {}, "vanilla": {}}


@pytest.mark.parametrize("last", [0.5, None])
def test_runs_of_single_tasks_have_the_statistics_over_tasks_of_one_run(
    last: float | None,
) -> None:
    values = {"a": 0.25, "b": 0.75, "c": last}
    shared = {"better": "higher", "percent": True}
    found: dict[RunKey, dict[str, Any] | None] = {
        RunKey("single", 0, task): fake_summary(
            {f"{task}/f1": value, "mean_f1": value}, metric_specs={f"{task}/f1": shared}
        )
        for task, value in values.items()
    }
    results = collected(spec(seeds=1, tasks=["a", "b", "c"], columns={"x": {"metric": "y"}}), found)
    own = results.rows["single"][0].metrics
    statistics = [own[MetricKey(None, f"{name}_f1")] for name in ("min", "median", "mean", "std")]
    expected = [0.25, 0.5, 0.5, pytest.approx((0.125 / 3) ** 0.5)]
    assert statistics == expected if last else all(map(math.isnan, statistics))


def test_runs_of_tasks_with_different_metrics_have_no_statistics_over_tasks() -> None:
    results = collected(spec(), runs())
    names = {key.name for key in results.rows["single"][0].metrics}
    assert not {"mean_accuracy", "mean_mse", "min_accuracy", "min_mse"} & names


def test_validation_metrics_stay_out() -> None:
    found = runs()
    found[RunKey("vanilla", 0)]["metrics"]["val/left/f1"] = 1.0  # type: ignore[index]
    results = collected(spec(), found)
    assert MetricKey("left", "f1") not in results.rows["vanilla"][0].metrics


@pytest.mark.parametrize(
    ("key", "summary", "reason"),
    [
        (RunKey("vanilla", 1), None, "no run"),
        (RunKey("vanilla", 1), {"status": "running"}, "not finished"),
        (RunKey("vanilla", 1), {"status": "failed"}, "failed"),
        (RunKey("vanilla", 1), {}, "no status"),
        (RunKey("single", 1, "sum"), None, "sum: no run"),
        (RunKey("single", 1, "sum"), {"status": "failed"}, "sum: failed"),
    ],
)
def test_a_run_that_is_not_finished_makes_its_seed_missing(
    key: RunKey, summary: dict[str, Any] | None, reason: str
) -> None:
    results = collected(spec(), {**runs(), key: summary})
    assert list(results.rows[key.row]) == [0]
    assert results.missing[key.row] == {1: reason}


def test_a_run_that_is_absent_is_missing_and_unexpected_seeds_do_not_count() -> None:
    results = collected(spec(seeds=3), {key: run for key, run in runs().items() if key.seed == 0})
    assert {row: list(seeds) for row, seeds in results.rows.items()} == {
        "single": [0],
        "vanilla": [0],
    }
    assert results.missing["vanilla"] == {1: "no run", 2: "no run"}
    results = collected(spec(seeds=3), runs(), seeds=[1])
    assert {row: list(seeds) for row, seeds in results.rows.items()} == {
        "single": [1],
        "vanilla": [1],
    }
    assert results.missing == {"single": {}, "vanilla": {}}


def test_a_metric_that_was_not_finite_is_nan() -> None:
    found = {**runs(), RunKey("vanilla", 0): fake_summary({"left/accuracy": None})}
    results = collected(spec(), found)
    assert math.isnan(results.rows["vanilla"][0].metrics[MetricKey.parse("left/accuracy")])


def test_a_run_is_read_with_its_configuration_and_first_evaluation(tmp_path: Path) -> None:
    assert read_run(tmp_path).outcome == "no summary"
    (tmp_path / "summary.json").write_text(json.dumps({"status": "finished"}))
    assert read_run(tmp_path).outcome == "summary.json lacks results"
    (tmp_path / "summary.json").write_text(json.dumps(fake_summary({})))
    assert read_run(tmp_path).outcome == "config.yaml cannot be read"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"seed": 3}))
    assert read_run(tmp_path).outcome == "finished"
    records = [{"train/loss": 1.0}, {"val/loss": 0.5, "epoch": 1}, {"val/loss": 0.25, "epoch": 2}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    run = read_run(tmp_path)
    assert run.seed == 3
    assert run.first_evaluation == {"val/loss": 0.5, "epoch": 1}


@pytest.mark.parametrize("content", ["", "{", '{"train/loss": 1.0}', "[1]"])
def test_an_unreadable_log_is_no_first_evaluation(tmp_path: Path, content: str) -> None:
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text(content)
    (tmp_path / "config.yaml").write_text("{")
    run = read_run(tmp_path)
    assert (run.config, run.first_evaluation) == ({}, None)


# -- gains -------------------------------------------------------------------------------------


def test_the_papers_gain_is_the_mean_over_tasks_against_the_same_seed() -> None:
    found = runs()
    found[RunKey("single", 1, "left")] = fake_summary({"left/accuracy": 0.7}, 1)
    results = collected(spec(), found)
    both_tasks = gains("paper", ["left", "sum"], results.rows, "single")
    assert both_tasks["single"] == {}
    # seed 0: (0.9 - 0.8) / 0.8 and (4 - 2) / 4; seed 1: (0.91 - 0.7) / 0.7 and (4 - 3) / 4
    assert both_tasks["vanilla"] == pytest.approx({0: (12.5 + 50) / 2, 1: (30 + 25) / 2})
    assert gains("paper", ["left"], results.rows, "single")["vanilla"][0] == pytest.approx(12.5)


def test_metrics_of_a_task_are_averaged_before_tasks() -> None:
    """Nine equal gains would hide it: here segmentation has 2 metrics, depth 2, normals 5."""
    base, row = _nyuv2(NASH_BASE), dict(NASH_BASE)
    for key in row:
        if key.startswith("normals/"):
            row[key] *= 1.1 if "within" in key else 0.9
    rows = {"single": {0: base}, "vanilla": {0: _nyuv2(row)}}
    tasks = ["segmentation", "depth", "normals"]
    assert gains("paper", tasks, rows, "single")["vanilla"][0] == pytest.approx(10 / 3)
    assert gains("nash", tasks, rows, None)["vanilla"][0] == pytest.approx(-10 * 5 / 9)


def _nyuv2(metrics: dict[str, float]) -> SeedResult:
    specs = {
        f"{task.name}/{metric.name}": {"better": metric.better, "percent": metric.percent}
        for task in make_tasks("exact")
        for metric in task.metrics
    }
    summary = {**fake_summary(metrics), "metric_specs": specs}
    return SeedResult({MetricKey.parse(key): v for key, v in metrics.items()}, [fake_run(summary)])


def test_a_seed_without_its_base_has_no_gain() -> None:
    results = collected(spec(), {**runs(), RunKey("single", 0, "sum"): None})
    assert list(gains("paper", ["left"], results.rows, "single")["vanilla"]) == [1]
    del results.rows["single"]
    assert gains("paper", ["left"], results.rows, "single")["vanilla"] == {}


def test_a_gain_over_zero_is_not_a_number() -> None:
    found = {**runs(), RunKey("single", 0, "sum"): fake_summary({"sum/mse": 0.0})}
    results = collected(spec(), found)
    assert math.isnan(gains("paper", ["left", "sum"], results.rows, "single")["vanilla"][0])


def test_nash_gains_have_the_published_constants_and_sign() -> None:
    facts = [0.3830, 0.6376, 0.6754, 0.2780, 25.01, 19.21, 0.3014, 0.5720, 0.6915]
    assert list(NASH_BASE.values()) == facts
    names = [f"{t.name}/{m.name}" for t in make_tasks("mtan_batch") for m in t.metrics]
    assert list(NASH_BASE) == names  # in the order in which the lineage prints them
    assert BETTER["nash"] == "lower"
    tasks = ["segmentation", "depth", "normals"]
    same = {"vanilla": {0: _nyuv2(NASH_BASE)}}
    assert gains("nash", tasks, same, None)["vanilla"][0] == 0.0


def test_printed_rows_of_the_nash_lineage_have_their_printed_gain() -> None:
    spec = OmegaConf.load("conf/table/nyuv2_nash.yaml")
    columns = [key for key, column in spec.columns.items() if "metric" in column]
    percent = {f"{t.name}/{m.name}" for t in make_tasks("exact") for m in t.metrics if m.percent}
    tasks = ["segmentation", "depth", "normals"]
    assert len(spec.paper.rows) == 11
    for row in spec.paper.rows.values():
        printed = {spec.columns[key].metric: row[key] for key in columns}
        metrics = {k: v / 100 if k in percent else v for k, v in printed.items()}
        gain = gains("nash", tasks, {"x": {0: _nyuv2(metrics)}}, None)["x"][0]
        # printed gains are of numbers before rounding
        assert gain == pytest.approx(row.delta, abs=0.015)


def test_nash_gains_need_the_metrics_of_nyuv2() -> None:
    results = collected(spec(), runs())
    with pytest.raises(ConfigError, match="needs the nine metrics of NYUv2"):
        gains("nash", ["left"], results.rows, None)


def test_a_seed_whose_base_was_measured_on_other_data_has_no_gain() -> None:
    found = runs()
    found[RunKey("single", 1, "left")]["data_fingerprint"] = "beef"  # type: ignore[index]
    results = collected(spec(), found)
    assert list(gains("paper", ["left"], results.rows, "single")["vanilla"]) == [0]


def test_libmtl_gains_are_over_the_first_evaluation_of_the_same_run() -> None:
    first = {"val/left/accuracy": 0.5, "val/sum/mse": 8.0, "epoch": 1}
    run = both(0.9, 2.0, first_evaluation=first)
    run["metrics"] |= {"val/left/accuracy": 0.75, "val/sum/mse": 2.0}
    results = collected(spec(seeds=1), {RunKey("vanilla", 0): run})
    assert gains("libmtl", ["left"], results.rows, None)["vanilla"] == {0: pytest.approx(50.0)}
    assert gains("libmtl", ["sum"], results.rows, None)["vanilla"] == {0: pytest.approx(75.0)}
    del run["first_evaluation"]
    results = collected(spec(seeds=1), {RunKey("vanilla", 0): run})
    assert gains("libmtl", ["left"], results.rows, None)["vanilla"] == {}


def test_a_gain_of_an_unknown_task_is_refused() -> None:
    results = collected(spec(), runs())
    with pytest.raises(ConfigError, match="got 'parity'; the runs have left, sum"):
        gains("paper", ["parity"], results.rows, "single")


# -- settings ----------------------------------------------------------------------------------


def test_settings_in_which_rows_differ_are_named_with_their_rows() -> None:
    def config(rate: float, seed: int, **method: Any) -> dict[str, Any]:
        return {
            "seed": seed,
            "paths": {"output_dir": f"here/{seed}"},
            "method": method,
            "model_optimizer": {"lr": rate},
            "train": {"epochs": 3},
        }

    found = {
        RunKey("vanilla", seed): both(0.9, 2.0, seed, config=config(1e-3, seed)) for seed in (0, 1)
    }
    found[RunKey("other", 0)] = both(0.9, 2.0, config=config(2e-3, 0, alpha=1.0))
    table = spec(rows={"single": {}, "vanilla": {"label": "Vanilla"}, "other": {}})
    results = collected(table, found)
    notes = differing_settings(table, results)
    assert notes == ["model_optimizer.lr: 0.001 (Vanilla); 0.002 (other)."]


def test_a_title_says_how_much_was_trained_on() -> None:
    assert collected(spec(), runs()).trained_on == ""
    sizes: list[dict[str, int]] = [{"train": 50_000, "test": 9}, {"train": 5_400}]
    found = {
        RunKey("vanilla", seed): both(0.9, 2.0, seed, num_examples=of_run)
        for seed, of_run in enumerate(sizes)
    }
    assert collected(spec(), found).trained_on == "5,400 or 50,000 examples"
