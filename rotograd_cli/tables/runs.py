"""Run directories: found by a pattern and read with what a table needs of their files."""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from rotograd_cli import errors
from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey, of_split
from rotograd_cli.runs.identity import setting
from rotograd_cli.runs.saved import read_saved
from rotograd_cli.runs.summary import RunSummary, evaluations

MAX_NAMED = 5
_COUNTS = ("limit_batches", "limit_eval_batches", "batch_size", "eval_batch_size")
"""Keys of ``train`` that conditions and notes count with."""


class RunKey(NamedTuple):
    """Which cell a run belongs to."""

    row: str
    seed: int
    task: str | None = None
    """The one task of a run of a ``per_task`` row; None for a run of all tasks."""

    def __str__(self) -> str:
        """Return the cell in words: ``single, seed 0, task left``."""
        return f"{self.row}, seed {self.seed}" + (f", task {self.task}" if self.task else "")


@dataclass(frozen=True)
class Run:
    """A run directory."""

    folder: Path
    summary: RunSummary = field(repr=False)
    config: Mapping[str, Any] | None = field(repr=False)
    """Content of ``config.yaml``; None where it cannot be read, or the run never began."""
    first_evaluation: Mapping[str, Any] | None = field(default=None, repr=False)
    """First record of ``metrics.jsonl`` that has an evaluation."""

    @property
    def outcome(self) -> str:
        """``finished`` if a table can show the run, else what became of it."""
        if self.summary.is_finished and self.config is None:
            return "config.yaml cannot be read"
        return self.summary.outcome

    @property
    def is_finished(self) -> bool:
        """Whether a table can show the run."""
        return self.outcome == "finished"

    @property
    def setting(self) -> dict[str, Any]:
        """What makes its row (:func:`~rotograd_cli.runs.identity.setting`)."""
        return setting(self.config or {}, self.summary.select)

    @property
    def seed(self) -> int:
        """Its seed; the run must have begun."""
        return int(self.section("seed"))

    @property
    def tasks(self) -> tuple[str, ...] | None:
        """The tasks it was restricted to; None where it took all of its data set."""
        tasks = self.section("tasks")
        return None if tasks is None else tuple(tasks)

    @property
    def only_task(self) -> str | None:
        """Its task where it was restricted to one."""
        return self.tasks[0] if self.tasks is not None and len(self.tasks) == 1 else None

    def section(self, name: str) -> Any:
        """Return a top-level entry of its configuration; None where there is none."""
        return (self.config or {}).get(name)

    def metrics(self, split: str) -> dict[MetricKey, float]:
        """Return the recorded metrics of a split; NaN for a value that was not finite."""
        return of_split(self.summary.metrics, split)


def read_run(folder: Path) -> Run:
    """Read a run directory; what is missing or damaged is left out."""
    summary = RunSummary.read(folder) or RunSummary(status="no summary")
    return Run(folder, summary, read_config(folder), next(evaluations(folder), None))


def read_config(run_dir: Path) -> dict[str, Any] | None:
    """Return the content of a run's ``config.yaml``; None if there is none, or it is no run's."""
    try:
        config = read_saved(run_dir / "config.yaml")
    except ConfigError:
        return None
    method, data, train = (config.get(name, {}) for name in ("method", "data", "train"))
    is_runs = (
        type(config.get("seed")) is int
        and all(isinstance(section, dict) for section in (method, data, train))
        and all(isinstance(train.get(key), (int, NoneType)) for key in _COUNTS)
        and isinstance(config.get("tasks") or [], list)
    )
    return config if is_runs else None


def find_runs(patterns: Sequence[str]) -> list[Run]:
    """Read the run directories that patterns name, or that lie below what they name.

    Args:
        patterns: Paths, or patterns with ``*``, ``?`` and ``**``.

    Returns:
        The runs, sorted by folder (numbered cells by number), each once.

    Raises:
        ConfigError: If a pattern names none.
    """
    folders = {folder for pattern in patterns for folder in _matching(pattern)}
    return [read_run(folder) for folder in sorted(folders, key=_order)]


def _matching(pattern: str) -> set[Path]:
    name = os.path.expanduser(pattern)
    is_path = os.path.lexists(name)  # as it stands, whatever its brackets could mean
    paths = [Path(path) for path in ([name] if is_path else glob.glob(name, recursive=True))]
    folders = {folder for path in paths for folder in _below(path)}
    if not folders:
        result = "nothing" if not paths else f"{len(paths)} paths without a run below them"
        raise ConfigError(
            f"`runs` must name run directories or folders that hold them, got {pattern!r}, which "
            f"matches {result}; rotograd train prints the directory of every run."
        )
    return folders


def _below(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        return
    for folder, folders, files in os.walk(path):
        # a run that was killed early has no summary; wandb's folders have a config.yaml too
        if "summary.json" in files or ("config.yaml" in files and "checkpoints" in folders):
            yield Path(os.path.normpath(folder))


def _order(folder: Path) -> list[tuple[int, str]]:
    return [(int(part) if part.isdecimal() else 0, part) for part in folder.parts]


def listed(runs: Sequence[Run]) -> str:
    """Return the folders of a few runs, with what became of them."""
    return errors.listed([f"{run.folder} ({run.outcome})" for run in runs], MAX_NAMED)


def varying(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which settings differ, in order; a key that one lacks differs too.

    Examples:
        >>> varying([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}])
        ['b', 'c']
    """
    several = list(settings)
    keys = dict.fromkeys(key for setting in several for key in setting)
    return [
        key for key in keys if any(_differs(setting, several[0], key) for setting in several[1:])
    ]


def _differs(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    return (key in one) != (key in other) or one.get(key) != other.get(key)
