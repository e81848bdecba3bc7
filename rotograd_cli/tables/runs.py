"""Run directories: found by a pattern, grouped into the cells of a table."""

import glob
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.identity import setting
from rotograd_cli.tables.conditions import COMMON, TASKS, conditions
from rotograd_cli.tables.results import RunKey, read_config, read_run
from rotograd_cli.tables.settings import varying

MAX_NAMED = 5


@dataclass(frozen=True)
class Run:
    """A run directory."""

    folder: Path
    config: dict[str, Any] | None = field(repr=False)
    """None for a cell that was refused before it began."""
    summary: dict[str, Any] = field(repr=False)

    @property
    def is_finished(self) -> bool:
        """Whether it has its test metrics, of an epoch that was selected by a finite value."""
        return bool(self.summary["status"] == "finished")

    @property
    def setting(self) -> dict[str, Any]:
        """What makes its row (:func:`~rotograd_cli.runs.identity.setting`)."""
        return setting(self.config or {}, self.summary.get("select"))

    @property
    def seed(self) -> int:
        """Its seed."""
        assert self.config is not None
        return int(self.config["seed"])

    @property
    def tasks(self) -> tuple[str, ...] | None:
        """Its tasks, None where it took all of its data set."""
        assert self.config is not None
        tasks = self.config.get("tasks")
        return None if tasks is None else tuple(tasks)


def find_runs(patterns: Sequence[str]) -> list[Run]:
    """Run directories that patterns name, or that lie below what they name.

    Args:
        patterns: Paths, or patterns with ``*``, ``?`` and ``**``.

    Returns:
        The runs, sorted by folder (numbered cells by number), each once.

    Raises:
        ConfigError: If a pattern names none.
    """
    folders = {folder for pattern in patterns for folder in _matching(pattern)}
    return [_run(folder) for folder in sorted(folders, key=_order)]


def _matching(pattern: str) -> set[Path]:
    name = os.path.expanduser(pattern)
    is_path = os.path.lexists(name)  # as it stands, whatever its brackets could mean
    paths = [Path(path) for path in ([name] if is_path else glob.glob(name, recursive=True))]
    folders = {folder for path in paths for folder in _below(path)}
    if not folders:
        found = "nothing" if not paths else f"{len(paths)} paths without a run below them"
        raise ConfigError(
            f"`runs` must name run directories or folders that hold them, got {pattern!r}, which "
            f"matches {found}; rotograd train prints the directory of every run."
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


def _run(folder: Path) -> Run:
    summary = read_run(folder) or {"status": "no summary", "run_dir": str(folder)}
    config = read_config(folder)
    if summary["status"] == "finished" and config is None:
        summary["status"] = "config.yaml cannot be read"
    return Run(folder, config, summary)


def one_per_cell(groups: Mapping[RunKey, Sequence[Run]]) -> tuple[dict[RunKey, Run], list[str]]:
    """Chooses the run of every cell: a finished one, of several the newest, which a note says.

    Args:
        groups: Runs by cell.

    Returns:
        The runs, and the notes.

    Raises:
        ConfigError: If finished runs of one row (and task) differ in their settings, or those of
            one row in what they were measured on: their seeds would not be seeds of one thing.
    """
    _check_one_setting(groups)
    _check_conditions(groups)
    chosen, notes = {}, []
    for key, runs in groups.items():
        newest = sorted(runs, key=lambda run: (run.is_finished, run.summary.get("started") or ""))
        chosen[key] = newest[-1]
        finished = sum(run.is_finished for run in runs)
        if finished > 1:
            notes.append(
                f"{describe(key)} was run {finished} times; the newest counts, {newest[-1].folder}."
            )
    return chosen, notes


def describe(key: RunKey) -> str:
    """A cell in words: ``single, seed 0, task left``."""
    return f"{key.row}, seed {key.seed}" + (f", task {key.task}" if key.task else "")


def _check_one_setting(groups: Mapping[RunKey, Sequence[Run]]) -> None:
    by_row: dict[tuple[str, str | None], list[Run]] = defaultdict(list)
    for key, runs in groups.items():
        by_row[key.row, key.task] += [run for run in runs if run.is_finished]
    for (row, _), runs in by_row.items():
        settings = [run.setting for run in runs]
        keys = varying(settings)
        if keys:
            values = dict.fromkeys(str(found.get(keys[0], "none")) for found in settings)
            others = f" and {len(keys) - 1} other keys" if len(keys) > 1 else ""
            raise ConfigError(
                f"The runs of row {row!r} must have the same settings, got {keys[0]} "
                f"{', '.join(values)}{others}; narrow `runs` to one of them."
            )


def _check_conditions(groups: Mapping[RunKey, Sequence[Run]]) -> None:
    found: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for key, runs in groups.items():
        names = COMMON if key.task else (*COMMON, TASKS)
        for run in runs:
            own = conditions([run.summary]) if run.is_finished else {}
            for name in names if own else ():
                found[key.row, name].setdefault(own[name], run.folder)
    for (row, name), folders in found.items():
        if len(folders) > 1:
            values = ", ".join(f"{text} ({folder})" for text, folder in folders.items())
            raise ConfigError(
                f"The runs of row {row!r} must be measured alike, got {name}: {values}; narrow "
                "`runs` to one of them."
            )


def named(runs: Sequence[Run]) -> str:
    """Folders of a few runs, with what became of them."""
    words = [f"{run.folder} ({run.summary['status']})" for run in runs[:MAX_NAMED]]
    more = [f"{len(runs) - MAX_NAMED} more"] if len(runs) > MAX_NAMED else []
    return ", ".join([*words, *more])
