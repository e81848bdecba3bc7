"""Summaries of runs that never were, for tests of tables."""

from collections.abc import Mapping
from typing import Any

METRIC_SPECS: dict[str, dict[str, Any]] = {
    "left/accuracy": {"better": "higher", "percent": True},
    "sum/mse": {"better": "lower", "percent": False},
}


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
        "epochs": 3,
        "notes": [],
        "data_fingerprint": "f00d",
        "device": "cpu (x)",
        "versions": {"torch": "2.15.0"},
        "commit": "0123456789abcdef",
        "train_s": 1800.0,
        "wall_s": 3600.0,
        **others,
    }
