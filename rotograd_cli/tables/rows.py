"""Which runs curves are drawn from: rows of seeds, and what is left out.

Runs that differ in their seed alone are one row, named as in ``rotograd table``. Finished runs
count. Where a row has none, its unfinished ones are drawn as far as they got.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rotograd_cli.errors import ConfigError, DatasetError
from rotograd_cli.runs.history import read_history
from rotograd_cli.runs.protocols import suffixes
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.adhoc import cells_of
from rotograd_cli.tables.cells import one_per_cell
from rotograd_cli.tables.runs import COMPARED, Run, conditions, with_protocols

Array = NDArray[np.float64]


@dataclass(frozen=True)
class History:
    """A run and its records."""

    run: Run
    columns: Mapping[str, Array] = field(repr=False)
    """By key, NaN where a record lacks it."""

    def has(self, key: str) -> bool:
        """Return whether a record has a finite value of a key."""
        return key in self.columns and bool(np.isfinite(self.columns[key]).any())

    @property
    def last_step(self) -> int:
        """Step of the last record."""
        return int(np.nanmax(self.columns["step"]))


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone, or in the one task that each was trained on."""

    label: str
    histories: Sequence[History]

    @property
    def summary(self) -> RunSummary:
        """Summary of the first run."""
        return self.histories[0].run.summary

    @property
    def num_seeds(self) -> int:
        """Number of different seeds."""
        return len({history.run.seed for history in self.histories})

    def with_key(self, key: str) -> list[History]:
        """Return the runs that recorded a key."""
        return [history for history in self.histories if history.has(key)]


@dataclass(frozen=True)
class Rows:
    """What is drawn, and what is not."""

    rows: Sequence[Row]
    notes: Sequence[str]

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.rows[0].summary.data)

    @property
    def histories(self) -> list[History]:
        """All runs."""
        return [history for row in self.rows for history in row.histories]

    @property
    def tasks(self) -> list[str]:
        """All tasks, in the order of the data set as far as the runs tell."""
        return list(dict.fromkeys(t for h in self.histories for t in h.run.summary.tasks))

    @property
    def have_same_tasks(self) -> bool:
        """Whether numbers over all tasks are of the same tasks in every run."""
        return len({tuple(history.run.summary.tasks) for history in self.histories}) == 1

    @property
    def keys(self) -> list[str]:
        """All keys with a value, in the order of the records."""
        return list(dict.fromkeys(k for h in self.histories for k in h.columns if h.has(k)))


def read_rows(runs: Sequence[Run]) -> Rows:
    """Read the records of runs, and say of each run that is not drawn why.

    Args:
        runs: Runs as they were found.

    Raises:
        ConfigError: If no run has a record, or the runs are of several data sets.
    """
    histories, notes = _read(runs)
    histories = _by_protocol(histories)
    if not histories:
        raise ConfigError(f"`runs` must name a run with records, got none. {notes[0]}")
    drawn = [history.run for history in histories.values()]
    _check_one_data_set(drawn)
    groups = cells_of(drawn)
    cells, _ = one_per_cell(groups)
    notes += [
        f"Left out: {run.folder} ({run.outcome}), {key} is drawn from {cells[key].folder}."
        for key, several in groups.items()
        for run in several
        if run is not cells[key]
    ]
    by_row: dict[str, list[History]] = defaultdict(list)
    for key, run in cells.items():
        by_row[key.row].append(histories[run.folder])
    rows = []
    for label, members in by_row.items():
        counted, left_out = _counted(label, members)
        rows.append(Row(label, counted))
        notes += left_out
    return Rows(rows, [*notes, *_differences(drawn)])


def _read(runs: Sequence[Run]) -> tuple[dict[Path, History], list[str]]:
    """Return the records by folder, and a note for every run without."""
    histories = {}
    notes = []
    for run in runs:
        if not run.config:
            notes.append(f"Left out: {run.folder} has no config.yaml that can be read.")
            continue
        try:
            histories[run.folder] = History(run, read_history(run.folder))
        except DatasetError as error:
            notes.append(f"Left out ({run.outcome}): {error}")
    return histories, notes


def _by_protocol(histories: Mapping[Path, History]) -> dict[Path, History]:
    """Name metrics by their protocol where runs differ in it: ``depth/abs_err (exact)``."""
    runs = with_protocols([history.run for history in histories.values()])
    ways: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for key, display in run.summary.displays.items():
            ways[key].append(display.protocol or "")
    added = {key: suffixes(of_runs) for key, of_runs in ways.items()}
    return {run.folder: _named(History(run, histories[run.folder].columns), added) for run in runs}


def _named(history: History, added: Mapping[str, Mapping[str, str]]) -> History:
    """Return records and summary with what each metric's name adds for its protocol."""
    summary = history.run.summary
    displays = summary.displays

    def named(key: str) -> str:
        return f"{key}{added[key][displays[key].protocol or '']}" if key in displays else key

    def recorded(key: str) -> str:
        split, slash, metric = key.partition("/")
        return f"{split}{slash}{named(metric)}"

    renamed = dataclasses.replace(
        summary,
        metric_specs={named(key): each for key, each in summary.metric_specs.items()},
        statistic_specs={named(key): each for key, each in summary.statistic_specs.items()},
        select=None if summary.select is None else recorded(summary.select),
    )
    columns = {recorded(key): values for key, values in history.columns.items()}
    return History(dataclasses.replace(history.run, summary=renamed), columns)


def _counted(label: str, members: Sequence[History]) -> tuple[list[History], list[str]]:
    """Return the runs of a row that count, and a note for every unfinished one."""
    finished = [history for history in members if history.run.summary.status == "finished"]
    unfinished = [history for history in members if history not in finished]
    status = "left out beside finished runs of" if finished else "drawn as far as it got for"
    notes = [
        f"{h.run.folder} ({h.run.outcome} at step {h.last_step}): {status} {label}."
        for h in unfinished
    ]
    return finished or unfinished, notes


def _check_one_data_set(runs: Sequence[Run]) -> None:
    data = list(dict.fromkeys(str(run.summary.data) for run in runs))
    if len(data) > 1:
        raise ConfigError(f"`runs` must be of one data set, got {', '.join(data)}; narrow `runs`.")


def _differences(runs: Sequence[Run]) -> list[str]:
    """Return why numbers of the runs cannot be compared."""
    measured = [conditions([run]) for run in runs]
    return [
        f"Not comparable: the runs differ in their {key} "
        f"({', '.join(dict.fromkeys(each[key] for each in measured))})."
        for key in COMPARED
        if len({each[key] for each in measured}) > 1
    ]
