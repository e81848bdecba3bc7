"""The identity of a run: what of its configuration determines its result.

``resume``, ``reproduce``, ``table`` and the check of a sweep's folders all ask this module whether
two runs are the same.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.config import TrainConfig
from rotograd_cli.runs.saved import read_saved

UNCOUNTED = ("paths", "logger", "tags", "device", "deterministic", "checkpoints")
"""Sections that are no part of a run's identity.

They say where a run reads and writes, who is told, on which machine it happens and how often it is
saved. A result does not depend on them, but for rounding on another device or with other kernels,
which the footnotes of a table name.
"""

_AUTO = ("geomean_loss", "relative_loss")
"""Metrics that ``train.select=SPLIT/auto`` stands for, depending on the data set's losses."""


def key(config: Mapping[str, Any]) -> str:
    """Return the short name of a configuration; runs with equal names have equal results.

    Args:
        config: Content of a run's ``config.yaml``.

    Returns:
        Sixteen hexadecimal digits.
    """
    counted = {**setting(config), "seed": config.get("seed"), "tasks": config.get("tasks")}
    text = json.dumps(counted, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def setting(config: Mapping[str, Any], select: str | None = None) -> dict[str, Any]:
    """Return what runs of one row of a table share: the identity without seed and tasks.

    Args:
        config: Content of a run's ``config.yaml``.
        select: Metric that the run selected by, which says what its ``train.select=SPLIT/auto``
            stood for. Without it, ``auto`` is ``geomean_loss`` for the data sets of this package,
            none of which has negative losses, and stays ``auto`` for others.

    Returns:
        Values by dotted key.
    """
    uncounted = (*UNCOUNTED, "seed", "tasks")
    result = flat({name: value for name, value in config.items() if name not in uncounted})
    split, _, metric = str(result.get("train.select")).partition("/")
    if metric == "auto":
        candidates = [f"{split}/{name}" for name in _AUTO]
        if select in candidates:
            result["train.select"] = select
        elif str(result.get("data._target_")).startswith("rotograd_cli.data."):
            result["train.select"] = candidates[0]
    return result


def holds_run(run_dir: Path, config: TrainConfig) -> bool:
    """Return whether a folder holds a run of a configuration, finished or not."""
    return _saved_key(run_dir) == key(asdict(config))


def folders_by_key(parent: Path) -> dict[str | None, Path]:
    """Return the run directories in a folder by the key of their configuration."""
    return {_saved_key(path.parent): path.parent for path in parent.glob("*/config.yaml")}


def _saved_key(run_dir: Path) -> str | None:
    try:
        return key(read_saved(run_dir / "config.yaml"))
    except (ConfigError, TypeError):  # damaged, or of something else
        return None


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a configuration by dotted key, lists as tuples.

    Examples:
        >>> flat({"train": {"epochs": 3}, "tags": ["a"], "heads": {}})
        {'train.epochs': 3, 'tags': ('a',)}
    """
    leaves: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = tuple(value) if isinstance(value, list) else value
    return leaves
