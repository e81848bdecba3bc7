"""The files of a run: configuration, log, summary."""

import json
import logging
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rotograd_cli import __version__
from rotograd_cli.data.base import MultiTaskDataset, Split
from rotograd_cli.errors import DatasetError
from rotograd_cli.methods.base import MultiTaskMethod
from rotograd_cli.ranks.base import Ranks
from rotograd_cli.runs.config import TrainConfig
from rotograd_cli.runs.report import read_summary
from rotograd_cli.runs.summaries import is_evaluation
from rotograd_cli.tasks.task import task_statistics
from rotograd_cli.training.coverage import cut_notes, num_evaluated
from rotograd_cli.training.selection import Selection
from rotograd_cli.training.state import TrainState

logger = logging.getLogger(__name__)


def recorded_metrics(run_dir: Path, checkpoint: str) -> dict[str, float]:
    """Metrics that a run recorded of a checkpoint.

    Args:
        run_dir: Run directory.
        checkpoint: ``best``: the selected epoch, from ``summary.json``; ``last``: the last
            evaluation, of every split but test, from ``metrics.jsonl``.

    Returns:
        Metrics by key; empty where the run recorded none.
    """
    if checkpoint == "best":
        return dict((read_summary(run_dir) or {}).get("metrics", {}))
    try:
        lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError):
        return {}
    evaluations = [record for record in records if is_evaluation(record)]
    return dict(evaluations[-1]) if evaluations else {}


def other_data(run_dir: Path, dataset: MultiTaskDataset) -> str | None:
    """That a run saw other data, in words.

    Args:
        run_dir: Run directory.
        dataset: The data that are there now.

    Returns:
        What the fingerprints are; None if they agree, or the run recorded none.
    """
    then = (read_summary(run_dir) or {}).get("data_fingerprint")
    now = dataset.fingerprint
    if not isinstance(then, str) or then == now:
        return None
    return f"{run_dir} was trained on data with fingerprint {then!r}, those here have {now!r}"


def refuse_other_data(run_dir: Path, dataset: MultiTaskDataset, data_dir: str) -> None:
    """Refuses to go on with other data than a run began with.

    Args:
        run_dir: Run directory.
        dataset: The data that are there now.
        data_dir: The data root, for the message.

    Raises:
        DatasetError: If the fingerprints differ.
    """
    difference = other_data(run_dir, dataset)
    if difference is not None:
        raise DatasetError(
            f"`resume` needs the data that the run began with, but {difference}; restore the files "
            f"in the data root {data_dir}, name the right one with paths.data_dir=DIR, or start a "
            "new run without resume."
        )


@contextmanager
def log_file(path: Path, *, quiet: bool = False) -> Iterator[None]:
    """Logs of this package, while a run lasts: all to a file, the rest to standard error.

    Args:
        path: The file.
        quiet: WARNING and up to standard error instead of INFO and up.
    """
    package = logging.getLogger("rotograd_cli")
    file = logging.FileHandler(path, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING if quiet else logging.INFO)
    handlers = (file, terminal)
    before = package.level, package.propagate
    package.setLevel(logging.DEBUG)
    package.propagate = False
    for handler in handlers:
        package.addHandler(handler)
    try:
        yield
    finally:
        package.setLevel(before[0])
        package.propagate = before[1]
        for handler in handlers:
            package.removeHandler(handler)
            handler.close()


def describe_run(
    config: TrainConfig,
    dataset: MultiTaskDataset,
    model: MultiTaskMethod,
    selection: Selection,
    device: torch.device,
    overrides: Sequence[str],
) -> dict[str, Any]:
    """What is known of a run before it begins: the first part of ``summary.json``.

    Args:
        config: Configuration.
        dataset: Its data.
        model: Its network.
        selection: How its epochs are compared.
        device: Where it runs.
        overrides: What the user changed.

    Returns:
        Plain values.
    """
    splits: tuple[Split, ...] = ("train", "val", "test")
    evaluated = splits if config.train.evaluate_train else splits[1:]
    return {
        "status": "running",
        "method": model.method_name,
        "data": dataset.name,
        "tasks": [task.name for task in dataset.tasks],
        "metric_specs": {
            f"{task.name}/{spec.name}": {"better": spec.better, "percent": spec.percent}
            for task in dataset.tasks
            for spec in task.metrics
        },
        "statistic_specs": {
            statistic.name: {"better": statistic.better, "percent": statistic.percent}
            for statistic in task_statistics(dataset.tasks)
            if len(dataset.tasks) > 1
        },
        "seed": config.seed,
        "protocol": (
            f"epoch selected by {selection.key} ({selection.mode}), test measured once at that "
            "epoch"
        ),
        "select": selection.key,
        "overrides": list(overrides),
        "notes": [*dataset.notes, *cut_notes(dataset, evaluated, config.train)],
        "data_fingerprint": dataset.fingerprint,
        "num_examples": {split: dataset.num_examples(split) for split in splits},
        "num_evaluated": {
            split: num_evaluated(dataset, split, config.train) for split in evaluated
        },
        "num_parameters": {
            "backbone": _count(model.backbone),
            "heads": _count(model.heads),
            "method": sum(p.numel() for p in model.mtl_parameters()),
        },
        "device": _device_name(device),
        "num_threads": torch.get_num_threads(),
        "versions": package_versions(),
        "commit": source_commit(),
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def described_before(run_dir: Path, state: TrainState) -> dict[str, Any]:
    """What a run's summary keeps when the run is resumed.

    Args:
        run_dir: Run directory.
        state: Where it goes on.

    Returns:
        Its start, and the steps from which it was resumed.
    """
    before = read_summary(run_dir) or {}
    now = torch.get_num_threads()
    if before.get("num_threads", now) != now:
        logger.warning(
            "%d threads before, %d now: the result may differ in rounding from a run in one go.",
            before["num_threads"],
            now,
        )
    first = ("started", "overrides", "command")
    kept = {name: value for name, value in before.items() if name in first}
    return {**kept, "resumed_at_steps": [*before.get("resumed_at_steps", []), state.step]}


def describe_progress(state: TrainState, wall_s: float) -> dict[str, Any]:
    """How far a run came: the last part of ``summary.json``.

    Args:
        state: What the loop remembers.
        wall_s: Wall time of the whole run in seconds.

    Returns:
        Plain values.
    """
    return {
        "selected_epoch": state.best_epoch,
        "epochs": state.epoch,
        "steps": state.step,
        "skipped_steps": state.skipped_steps,
        "train_s": round(state.train_s, 3),
        "data_s": round(state.data_s, 3),
        "wall_s": round(wall_s, 3),
    }


def describe_ranks(ranks: Ranks, num_steps: int) -> dict[str, Any]:
    """How many processes trained, and what they exchanged: a part of ``summary.json``.

    Args:
        ranks: The processes.
        num_steps: Optimiser steps of the run.

    Returns:
        Number of processes and, of several, collective operations and bytes per step of this
        process, evaluations included; nothing for one process.
    """
    if ranks.size == 1:
        return {}
    steps = max(1, num_steps)
    traffic = ranks.traffic
    return {
        "num_ranks": ranks.size,
        "collectives_per_step": round(traffic.calls / steps, 2),
        "collective_bytes_per_step": round(traffic.num_bytes / steps),
    }


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _device_name(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device} ({name})"


def package_versions() -> dict[str, str]:
    """Versions of this package, of Python and of the packages that results depend on."""
    packages = ("torch", "hydra-core", "omegaconf", "numpy")
    found = {"rotograd-cli": __version__, "python": platform.python_version()}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def source_commit() -> str | None:
    """Commit of the running source checkout, with ``+`` if it was changed; None for a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
        return result.stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "") or None
