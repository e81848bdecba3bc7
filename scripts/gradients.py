"""The table of docs/results/gradients.md: python scripts/gradients.py RUN [RUN ...].

RUN is a run directory with diagnostics. Every number is a mean over the records of the first or the
last tenth of training; cells are mean ± sample standard deviation over the seeds of a method.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from rotograd_cli.runs.history import read_history
from rotograd_cli.runs.summary import RunSummary

History = Mapping[str, np.ndarray]
ORDER = ("Vanilla", "RotateOnly", "RotoGrad", "RotoGradNorm", "ScaleOnly", "PCGrad", "IMTL-G")
SHARE = 0.1
"""Of the training records, at the beginning and at the end."""


def per_task(history: History, key: str) -> np.ndarray:
    """Return a column per task, shape ``[num_records, K]``."""
    columns = [name for name in history if name.startswith("train/") and name.endswith(f"/{key}")]
    return np.stack([history[name] for name in columns], axis=1)


def norm_ratio(history: History) -> np.ndarray:
    """Return the largest over the smallest norm of the task gradients."""
    norms = per_task(history, "grad_norm")
    return np.asarray(norms.max(1) / norms.min(1))


def weighted_norm_ratio(history: History) -> np.ndarray:
    """Return the largest over the smallest norm of the weighted task gradients."""
    norms = per_task(history, "grad_norm") * per_task(history, "weight")
    return np.asarray(norms.max(1) / norms.min(1))


def key(name: str) -> Callable[[History], np.ndarray]:
    """Return a function that reads a column; NaN where there is none."""
    return lambda history: history.get(name, np.full(len(history["step"]), np.nan))


def turned(history: History) -> np.ndarray:
    """Return the mean over tasks of the angle from the start; NaN without rotations."""
    if any(name.endswith("/rotation_angle") for name in history):
        return np.asarray(per_task(history, "rotation_angle").mean(1))
    return np.full(len(history["step"]), np.nan)


QUANTITIES: Mapping[str, Callable[[History], np.ndarray]] = {
    "mean cosine before": key("train/conflict/mean_cosine_before"),
    "after": key("train/conflict/mean_cosine"),
    "conflict rate before": key("train/conflict/rate_before"),
    "after ": key("train/conflict/rate"),
    "magnitude similarity": key("train/conflict/magnitude_similarity"),
    "norm ratio": norm_ratio,
    "weighted norm ratio": weighted_norm_ratio,
    "smallest cosine with update": lambda h: np.asarray(per_task(h, "cosine_to_update").min(1)),
    "turned, degrees": turned,
}


def ends(values: np.ndarray) -> tuple[float, float]:
    """Return the means over the first and the last share of the records that have a value."""
    recorded = values[np.isfinite(values)]
    if not len(recorded):
        return np.nan, np.nan
    num = max(1, round(SHARE * len(recorded)))
    return float(recorded[:num].mean()), float(recorded[-num:].mean())


def cell(values: list[float]) -> str:
    """Return mean and sample standard deviation over seeds."""
    if np.isnan(values).any():
        return "-"
    digits = 2 if max(map(abs, values)) < 10 else 0
    spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return f"{np.mean(values):.{digits}f} ± {spread:.{digits}f}"


def main(folders: list[Path]) -> None:
    """Print two tables: the beginning and the end of training."""
    runs: dict[str, list[History]] = defaultdict(list)
    seconds = []
    for folder in folders:
        summary = RunSummary.read(folder)
        if summary is None or summary.wall_s is None:
            sys.exit(f"{folder} must be a finished run.")
        runs[str(summary.method_label)].append(read_history(folder))
        seconds.append(summary.wall_s)
    methods = sorted(runs, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    for end, title in enumerate(("First tenth of training", "Last tenth of training")):
        print(f"\n{title}:\n\n| method | " + " | ".join(QUANTITIES) + " |")
        print("| --- " * (1 + len(QUANTITIES)) + "|")
        for method in methods:
            cells = [
                cell([ends(quantity(history))[end] for history in runs[method]])
                for quantity in QUANTITIES.values()
            ]
            print(f"| {method} | " + " | ".join(cells) + " |")
    print("\nValidation loss at the end (geometric mean over tasks):\n")
    for method in methods:
        column = [ends(history["val/geomean_loss"])[1] for history in runs[method]]
        print(f"| {method} | {len(column)} seeds | {cell(column)} |")
    print(f"\n{len(seconds)} runs, {sum(seconds) / 60:.1f} minutes, {np.mean(seconds):.0f} s each.")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
