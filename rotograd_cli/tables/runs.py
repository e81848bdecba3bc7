"""Run directories: found by a pattern, and read with what a table needs to know of them.

Numbers that were measured on other data, by another protocol or on other examples are not compared:
:func:`conditions` says what a run's were measured on.
"""

import dataclasses
import glob
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, TypeVar

from rotograd_cli import errors
from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey, of_split
from rotograd_cli.runs.history import evaluations
from rotograd_cli.runs.protocols import completed, in_words
from rotograd_cli.runs.saved import read_saved, setting
from rotograd_cli.runs.summary import UNRECORDED, RunSummary

T = TypeVar("T")
Conditions = Mapping[str, str]
"""A text by condition, :data:`COMMON` and :data:`TASKS`; equal conditions have equal texts."""
DATA = "data"
PROTOCOL = "protocol of the metrics"
EVALUATED = "evaluated"
COMPARED = (DATA, EVALUATED)
"""Conditions that every number depends on, whatever its metric."""
COMMON = (*COMPARED, PROTOCOL)
"""Conditions that the runs of a row share. Of rows, :mod:`~rotograd_cli.tables.protocols` keeps
numbers of different protocols apart, metric by metric."""
TASKS = "tasks"
"""Condition of numbers over all tasks: their statistics, the geometric mean of the losses."""
WHOLE = "whole splits"
MAX_NAMED = 5
_OF_A_RUN = ("checkpoints", "wandb")
"""Folders in a run directory that hold no runs."""
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
    config: Mapping[str, Any] = field(repr=False)
    """Content of ``config.yaml``; empty where it cannot be read, or the run never began."""
    first_evaluation: Mapping[str, Any] | None = field(default=None, repr=False)
    """First record of ``metrics.jsonl`` that has an evaluation."""

    @property
    def outcome(self) -> str:
        """``finished`` if a table can show the run, else what became of it."""
        if self.summary.is_finished and not self.config:
            return "config.yaml cannot be read"
        return self.summary.outcome

    @property
    def is_finished(self) -> bool:
        """Whether a table can show the run."""
        return self.outcome == "finished"

    @property
    def protocol(self) -> str:
        """Protocols of all its metrics, in words."""
        declared = {display.protocol for display in self.summary.displays.values()}
        known = {*declared, self.of_data} - {UNRECORDED}
        return in_words([self.summary.tested_epochs], known)

    @property
    def of_data(self) -> str | None:
        """Protocol that its data set was set to; None where it has no such setting."""
        protocol: str | None = self.config.get("data", {}).get("protocol")
        return protocol

    @property
    def setting(self) -> dict[str, Any]:
        """What makes its row (:func:`~rotograd_cli.runs.saved.setting`)."""
        return setting(self.config, self.summary.select)

    @property
    def seed(self) -> int:
        """Its seed; the run must have begun."""
        return int(self.config["seed"])

    @property
    def tasks(self) -> tuple[str, ...] | None:
        """The tasks it was restricted to; None where it took all of its data set."""
        tasks = self.config.get("tasks")
        return None if tasks is None else tuple(tasks)

    @property
    def only_task(self) -> str | None:
        """Its task where it was restricted to one."""
        return self.tasks[0] if self.tasks is not None and len(self.tasks) == 1 else None

    @property
    def evaluated(self) -> str:
        """The part of its splits that it evaluated: ``64 of 2,000 test examples``."""
        counts = self.summary.num_evaluated
        if counts is None:  # of a version that did not count
            return self._evaluated_by(self.config)
        return _parts(counts, self.summary.num_examples)

    def evaluates_as(self, config: Mapping[str, Any]) -> bool:
        """Return whether a configuration would have evaluated the same part of its splits."""
        return self.evaluated == self._evaluated_by(config)

    def _evaluated_by(self, config: Mapping[str, Any]) -> str:
        sizes = self.summary.num_examples
        train = config["train"]
        if train.get("limit_eval_batches") is None:
            return WHOLE
        limit = train["limit_eval_batches"] * train.get("eval_batch_size", 1)
        return _parts(dict.fromkeys(sizes, limit), sizes)

    @property
    def notes(self) -> list[str]:
        """Its notes, with what a version that did not say it left out."""
        notes = list(self.summary.notes)
        if self.summary.num_evaluated is not None:  # its notes have it
            return notes
        if self.evaluated != WHOLE:
            notes.append(f"Evaluated in part: {self.evaluated} (train.limit_eval_batches).")
        train = self.config["train"]
        limit = train.get("limit_batches")
        size = self.summary.num_examples.get("train", 0)
        if limit is not None and limit < size // train.get("batch_size", 1):
            notes.append(f"Trained on {limit} batches per epoch (train.limit_batches={limit}).")
        return notes

    def metrics(self, split: str) -> dict[MetricKey, float]:
        """Return the recorded metrics of a split; NaN for a value that was not finite."""
        return of_split(self.summary.metrics, split)


def _parts(counts: Mapping[str, int], sizes: Mapping[str, int]) -> str:
    cut = [
        f"{counts[split]:,} of {sizes[split]:,} {split} examples"
        for split in ("val", "test")
        if split in sizes and counts.get(split, sizes[split]) < sizes[split]
    ]
    return " and ".join(cut) or WHOLE


def read_run(folder: Path) -> Run:
    """Read a run directory; what is missing or damaged is left out."""
    summary = RunSummary.read(folder) or RunSummary(status="no summary")
    config = _read_config(folder)
    return Run(folder, summary, config, next(evaluations(folder), None))


def _read_config(run_dir: Path) -> dict[str, Any]:
    """Content of a run's ``config.yaml``; empty if there is none, or it is no run's."""
    try:
        config = {"method": {}, "data": {}, "train": {}, **read_saved(run_dir / "config.yaml")}
    except ConfigError:
        return {}
    is_runs = (
        type(config.get("seed")) is int
        and all(isinstance(config[key], dict) for key in ("method", "data", "train"))
        and all(isinstance(config["train"].get(key), (int, NoneType)) for key in _COUNTS)
        and isinstance(config.get("tasks") or [], list)
    )
    return config if is_runs else {}


def find_runs(patterns: Sequence[str], key: str = "runs") -> list[Run]:
    """Read the run directories that patterns name, or that lie below what they name.

    Args:
        patterns: Paths, or patterns with ``*``, ``?`` and ``**``.
        key: Option that names them, for the message.

    Returns:
        The runs, sorted by folder (numbered cells by number), each once.

    Raises:
        ConfigError: If a pattern names none.
    """
    folders = {folder for pattern in patterns for folder in _matching(pattern, key)}
    return [read_run(folder) for folder in sorted(folders, key=order)]


def with_protocols(runs: Sequence[Run]) -> list[Run]:
    """Return runs with the protocols of metrics that earlier versions did not record."""
    summaries = completed([run.summary for run in runs], [run.of_data for run in runs])
    return [
        dataclasses.replace(run, summary=summary)
        for run, summary in zip(runs, summaries, strict=True)
    ]


def matching(pattern: str) -> list[Path]:
    """Return what a path or pattern names, in the file system."""
    name = os.path.expanduser(pattern)
    is_path = os.path.lexists(name)  # as it stands, whatever its brackets could mean
    return [Path(path) for path in ([name] if is_path else glob.glob(name, recursive=True))]


def without_runs(patterns: Sequence[str], runs: Sequence[Run]) -> list[Path]:
    """Return the folders that patterns name in which no run is, sorted; not those inside of a run.

    Args:
        patterns: As :func:`find_runs` takes them.
        runs: What it found.
    """
    folders = {run.folder for run in runs}
    above = folders.union(*(folder.parents for folder in folders))
    named = {Path(os.path.normpath(path)) for pattern in patterns for path in matching(pattern)}
    return sorted(
        path for path in named - above if path.is_dir() and folders.isdisjoint(path.parents)
    )


def _matching(pattern: str, key: str) -> set[Path]:
    paths = matching(pattern)
    folders = {folder for path in paths for folder in run_folders(path)}
    if not folders:
        result = "nothing" if not paths else f"{len(paths)} paths without a run below them"
        raise ConfigError(
            f"`{key}` must name run directories or folders that hold them, got {pattern!r}, which "
            f"matches {result}; rotograd train prints the directory of every run."
        )
    return folders


def run_folders(path: Path, on_error: Callable[[OSError], object] | None = None) -> Iterator[Path]:
    """Yield the run directories at and below a path.

    Args:
        path: A folder; nothing is below a file.
        on_error: Told of folders that cannot be read.
    """
    if not path.is_dir():
        return
    for folder, folders, files in os.walk(path, onerror=on_error):
        # a run that was killed early has no summary; wandb's folders have a config.yaml too
        if "summary.json" in files or ("config.yaml" in files and "checkpoints" in folders):
            yield Path(os.path.normpath(folder))
            folders[:] = [name for name in folders if name not in _OF_A_RUN]


def order(folder: Path) -> list[tuple[int, str]]:
    """Sort key of folders: numbered ones by number."""
    return [(int(part) if part.isdecimal() else 0, part) for part in folder.parts]


def conditions(runs: Sequence[Run]) -> Conditions:
    """Return under what conditions runs were measured together.

    Args:
        runs: One run, or the runs of single tasks that make one result.
    """
    texts: dict[str, list[str]] = {
        DATA: [f"fingerprint {run.summary.data_fingerprint or 'unknown'}" for run in runs],
        PROTOCOL: [run.protocol for run in runs],
        EVALUATED: [run.evaluated for run in runs],
    }
    tasks = {task for run in runs for task in run.summary.tasks}
    together = {key: " and ".join(dict.fromkeys(values)) for key, values in texts.items()}
    return {**together, TASKS: ", ".join(sorted(tasks))}


def alike(several: Iterable[Conditions], keys: Sequence[str]) -> bool:
    """Return whether some conditions are the same everywhere."""
    return len({tuple(each[key] for key in keys) for each in several}) <= 1


def listed(runs: Sequence[Run]) -> str:
    """Return the folders of a few runs, with what became of them."""
    return errors.listed([f"{run.folder} ({run.outcome})" for run in runs], MAX_NAMED)


def grouped(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """Return the distinct values of every key, both in the order of their first appearance.

    Examples:
        >>> grouped([("a", 1), ("b", 2), ("a", 3), ("a", 1)])
        {'a': [1, 3], 'b': [2]}
    """
    result: dict[str, dict[T, None]] = defaultdict(dict)
    for key, value in pairs:
        result[key][value] = None
    return {key: list(values) for key, values in result.items()}


def varying(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys in which settings differ, in order; a key that one lacks differs too.

    Examples:
        >>> varying([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}])
        ['b', 'c']
    """
    several = list(settings)
    keys = dict.fromkeys(key for setting in several for key in setting)
    absent = object()
    return [
        key
        for key in keys
        if any(each.get(key, absent) != several[0].get(key, absent) for each in several)
    ]
