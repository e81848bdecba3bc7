"""``rotograd runs``: a line per run directory, read while runs are going on.

Of each run ``summary.json`` is read, and the end of ``metrics.jsonl`` where it is not finished.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rotograd_cli.errors import ConfigError
from rotograd_cli.printing.grid import Grid
from rotograd_cli.runs.directory import status_of
from rotograd_cli.runs.saved import UNCOUNTED
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.terminal import format_selected
from rotograd_cli.tables.runs import matching, order, run_folders

BLOCK = 1 << 16
"""Bytes of a record file that are read first, from its end."""
HEADS = ("status", "epoch", "value", "age", "method", "data", "what differs", "folder")
_SHOWN = ("method", "data")
"""Overrides that have columns of their own."""
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class ListedRun:
    """A run directory, as far as the list shows it."""

    folder: Path
    summary: RunSummary
    status: str
    epoch: int | None
    """Evaluated epochs."""
    value: float | None
    """Selection value of the selected epoch; of the last evaluation where it is not finished."""

    @property
    def epochs(self) -> str:
        """How far it came: ``3/15``, ``9/15 early``; earlier versions did not record the 15."""
        if self.epoch is None:
            return "-"
        total = self.summary.planned_epochs
        early = " early" if self.summary.stopped_early else ""
        return str(self.epoch) if total is None else f"{self.epoch}/{total}{early}"

    @property
    def age_s(self) -> float | None:
        """Seconds since it began; None where that is unknown."""
        try:
            began = datetime.fromisoformat(self.summary.started or "")
        except ValueError:
            return None
        return (datetime.now(UTC) - began.astimezone(UTC)).total_seconds()

    @property
    def is_higher_better(self) -> bool:
        """Whether a higher selection value is better; losses have no entry and are not."""
        key = str(self.summary.select).partition("/")[2]
        spec = {**self.summary.metric_specs, **self.summary.statistic_specs}.get(key)
        return spec is not None and spec.better == "higher"


@dataclass
class Found:
    """Runs, and a line for each folder or pattern that could not be read or names nothing."""

    runs: list[ListedRun] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find(patterns: Sequence[str]) -> Found:
    """Read the runs that patterns name, or that lie below what they name.

    Args:
        patterns: Paths, or patterns with ``*``, ``?`` and ``**``.

    Returns:
        The runs, sorted by folder (numbered cells by number), each once.

    Raises:
        ConfigError: If there is none.
    """
    found = Found()
    folders: set[Path] = set()

    def note(error: OSError) -> None:
        found.problems.append(f"{error.filename} cannot be read ({error.strerror}).")

    for pattern in patterns:
        paths = matching(pattern)
        if not paths:
            found.problems.append(f"{pattern!r} matches nothing.")
        folders.update(folder for path in paths for folder in run_folders(path, note))
    if not folders:
        raise ConfigError(
            "`rotograd runs` needs run directories or folders that hold them, got "
            f"{', '.join(map(repr, patterns))} with no run; rotograd train prints the directory of "
            "every run."
        )
    found.runs = [_read(folder) for folder in sorted(folders, key=order)]
    return found


def _read(folder: Path) -> ListedRun:
    summary = _summary(folder)
    if summary.status == "finished":
        return ListedRun(folder, summary, summary.outcome, summary.epochs, summary.selected_value)
    last = _last_evaluation(folder, summary.select)
    value = last.get(summary.select or "")
    epoch = summary.epochs if summary.epochs is not None else last.get("epoch")
    status = status_of(folder, summary)
    return ListedRun(folder, summary, status, None if epoch is None else int(epoch), value)


def _summary(folder: Path) -> RunSummary:
    try:
        summary = RunSummary.read(folder)
    except ConfigError:
        return RunSummary(status="of a newer version")
    if summary is not None:
        return summary
    exists = (folder / "summary.json").exists()
    return RunSummary(status="unreadable" if exists else "no summary")


def _last_evaluation(folder: Path, select: str | None) -> Mapping[str, Any]:
    """Return the last record that has the selection value; empty where there is none."""
    try:
        for line in _lines_from_end(folder / "metrics.jsonl"):
            record = _record(line)
            if select in record and any(key.startswith("val/") for key in record):
                return record
    except OSError:
        pass
    return {}


def _record(line: bytes) -> dict[str, Any]:
    """Return the numbers of a record; empty for a line that is none, such as half a line."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if type(value) in (int, float)}


def _lines_from_end(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, the last one first, without reading what is not asked for."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        rest = b""
        while position > 0:
            size = min(BLOCK, position)
            position = file.seek(position - size)
            rest, *lines = (file.read(size) + rest).split(b"\n")
            yield from reversed(lines)
        yield rest


def listing(runs: Sequence[ListedRun], sort: str) -> Grid:
    """Return the list: a row per run, the folder last.

    Args:
        runs: Runs.
        sort: A key of :data:`SORTS`.
    """
    runs = sorted(runs, key=SORTS[sort])
    selects = {run.summary.select for run in runs if run.summary.select is not None}
    only = next(iter(selects)) if len(selects) == 1 else None
    differences = _differences([run.summary for run in runs])
    rows = [
        [
            run.status,
            run.epochs,
            _value(run, only),
            _age(run.age_s),
            run.summary.method_label or "-",
            run.summary.data or "-",
            difference,
            _relative(run.folder),
        ]
        for run, difference in zip(runs, differences, strict=True)
    ]
    heads = [only or "selected by" if head == "value" else head for head in HEADS]
    return Grid.of_texts(heads, rows, labels=len(heads))


def _relative(folder: Path) -> str:
    """Return a folder as it is named from the current one, if it is below it."""
    here = Path.cwd()
    is_below = folder.is_absolute() and folder.is_relative_to(here)
    return str(folder.relative_to(here) if is_below else folder)


def _value(run: ListedRun, only: str | None) -> str:
    text = format_selected(run.value)
    return text if only or run.value is None else f"{run.summary.select} {text}"


def _age(seconds: float | None) -> str:
    """An age in its largest unit.

    Examples:
        >>> _age(7300.0)
        '2 h'
    """
    if seconds is None:
        return "-"
    size, unit = next((u for u in _UNITS if seconds >= u[0]), _UNITS[-1])
    return f"{max(0, int(seconds / size))} {unit}"


def _differences(summaries: Sequence[RunSummary]) -> list[str]:
    """Return the overrides of each run that not all have, without those that have a column.

    What is no part of a run's identity (folders, device, logger) is left out.
    """
    begun = [
        {override.lstrip("+") for override in summary.overrides}
        for summary in summaries
        if summary.method is not None
    ]
    shared = set.intersection(*begun) if begun else set()
    return [" ".join(w for w in s.overrides if _tells(w, shared)) for s in summaries]


def _tells(override: str, shared: set[str]) -> bool:
    key = override.partition("=")[0].lstrip("+~")
    is_shown = key in _SHOWN or key.split(".")[0] in UNCOUNTED
    return not is_shown and (override.lstrip("+") not in shared)


def _by_age(run: ListedRun) -> tuple[bool, float]:
    age_s = run.age_s
    return age_s is None, age_s or 0.0


def _by_metric(run: ListedRun) -> tuple[bool, str, float]:
    value = run.value or 0.0
    return run.value is None, str(run.summary.select), -value if run.is_higher_better else value


SORTS: Mapping[str, Callable[[ListedRun], Any]] = {
    "age": _by_age,
    "metric": _by_metric,
    "name": lambda run: order(run.folder),
    "status": lambda run: run.status,
    "epoch": lambda run: -1 if run.epoch is None else run.epoch,
    "method": lambda run: str(run.summary.method_label),
    "data": lambda run: str(run.summary.data),
}
"""Orders of the list; equal runs stay in the order of their folders."""
