"""Summaries of runs that never were, for tests of tables."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rotograd_cli.config.schema import typed
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.checks import check_spec
from rotograd_cli.tables.results import Results, collect
from rotograd_cli.tables.runs import Run, RunKey
from rotograd_cli.tables.spec import TableSpec

METRIC_SPECS: dict[str, dict[str, Any]] = {
    "left/accuracy": {"better": "higher", "percent": True},
    "sum/mse": {"better": "lower", "percent": False},
}


def to_table_spec(content: Mapping[str, Any]) -> TableSpec:
    """The typed and checked table of a YAML file's content."""
    spec = typed(content, TableSpec, prefix="table.")
    check_spec(spec)
    return spec


def fake_summary(
    metrics: Mapping[str, float | None], seed: int = 0, **others: Any
) -> dict[str, Any]:
    """A finished run with these test metrics, keys without the split."""
    tasks = list(dict.fromkeys(key.split("/")[0] for key in metrics if "/" in key))
    return {
        "status": "finished",
        "method": "VanillaMTL",
        "data": "toy",
        "tasks": tasks,
        "seed": seed,
        "metric_specs": {k: v for k, v in METRIC_SPECS.items() if k.split("/")[0] in tasks},
        "statistic_specs": {},
        "metrics": {f"test/{key}": value for key, value in metrics.items()},
        "protocol": "epoch selected on validation",
        "selected_epoch": 2,
        "epochs": 3,
        "notes": [],
        "data_fingerprint": "f00d",
        "device": "cpu (x)",
        "versions": {"torch": "2.15.0"},
        "commit": "0123456789abcdef",
        "train_s": 1800.0,
        "data_s": 0.0,
        "wall_s": 3600.0,
        **others,
    }


def fake_config(seed: int = 0, method: str = "VanillaMTL", **sections: Any) -> dict[str, Any]:
    """What a table reads of a run's configuration; sections replace its own."""
    return {
        "seed": seed,
        "tasks": None,
        "method": {"_target_": f"rotograd_cli.methods.{method}"},
        "data": {"_target_": "toy.Toy"},
        "train": {"batch_size": 64, "eval_batch_size": 64, "limit_eval_batches": None},
        **sections,
    }


def fake_run(summary: Mapping[str, Any]) -> Run:
    """A run with this summary, and with what it has as ``config`` and ``first_evaluation``."""
    content = dict(summary)
    config = {**fake_config(summary.get("seed", 0)), **content.pop("config", {})}
    first_evaluation = content.pop("first_evaluation", None)
    return Run(Path("run"), RunSummary(**content), config, first_evaluation)


def collected(
    spec: TableSpec,
    summaries: Mapping[RunKey, Mapping[str, Any] | None],
    seeds: Sequence[int] | None = None,
) -> Results:
    """Results of runs with these summaries; None for a run that is not there."""
    runs = {key: fake_run(summary) for key, summary in summaries.items() if summary is not None}
    return collect(spec, runs, seeds)


def write_run(folder: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> Path:
    """A run directory with these files; ``method`` of the summary is that of the configuration."""
    folder.mkdir(parents=True)
    method = config["method"]["_target_"].rpartition(".")[2]
    content = {"method": method, **summary}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
