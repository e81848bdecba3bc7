"""The cells of a table: which run belongs to which row, and which run of a cell counts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rotograd_cli.config.labels import GRADIENTS, identity
from rotograd_cli.errors import ConfigError, override_value
from rotograd_cli.runs.saved import setting
from rotograd_cli.tables.parts import Detail
from rotograd_cli.tables.runs import COMMON, Run, RunKey, conditions, grouped, listed, varying
from rotograd_cli.tables.spec import TableSpec

NETWORK = ("data", "backbone", "head")
"""Components that a run must share with the table's experiment."""
Configurations = Mapping[str, Mapping[str, Any]]
"""Configuration by row."""


def match_runs(
    spec: TableSpec, runs: Sequence[Run], expected: Configurations
) -> tuple[dict[RunKey, list[Run]], list[str]]:
    """Find the cells of runs.

    A run belongs to a row if it has the row's method with the same options, the row's other
    overrides, and the experiment's classes of data, backbone and head; of several such rows to that
    with the most overrides. Other settings (epochs, learning rates) may differ: a note names them.
    A run that evaluated another part of its splits than the row does belongs to none.

    Args:
        spec: Table.
        runs: Runs.
        expected: Configuration of each row, composed from its overrides.

    Returns:
        Runs by cell, and notes: runs of no row, and settings that are not the table's.
    """
    cells: dict[RunKey, list[Run]] = defaultdict(list)
    unmatched = []
    cut = []
    for run in runs:
        row = _row_of(spec, run, expected) if run.config else None
        if row is None:
            unmatched.append(run)
        elif run.is_finished and not run.evaluates_as(expected[row]):
            cut.append(run)
        else:
            task = run.only_task if spec.rows[row].per_task else None
            cells[RunKey(row, run.seed, task)].append(run)
    notes = _departures(spec, cells, expected)
    if unmatched:
        notes.append(f"Runs of no row of this table: {listed(unmatched)}.")
    if cut:
        notes.append(
            "Left out, as they do not evaluate what the table does (train.limit_eval_batches): "
            f"{listed(cut)}; the first one {cut[0].evaluated}. Without `table=` they are rows of "
            "their own."
        )
    return cells, notes


def difference(runs: Sequence[Run], expected: Configurations) -> str:
    """Return why none of some runs belongs to a row: the first component that no row has."""
    for key in (f"{group}._target_" for group in NETWORK):
        of_rows = [str(_at(config, key)) for config in expected.values()]
        for run in runs:
            if run.config and _at(run.config, key) not in of_rows:
                return f"{key} is {_at(run.config, key)} instead of {of_rows[0]}"
    return "no row has their method with these options and tasks"


def _row_of(spec: TableSpec, run: Run, expected: Configurations) -> str | None:
    rows = [row for row in expected if _belongs(spec, row, run, expected[row])]
    return max(rows, key=lambda row: len(spec.rows[row].overrides), default=None)


def _belongs(spec: TableSpec, row: str, run: Run, expected: Mapping[str, Any]) -> bool:
    keys = [f"{group}._target_" for group in NETWORK]
    keys += [key for key in map(_key_of, spec.rows[row].overrides) if key != "method"]
    is_same = all(_at(run.config, key) == _at(expected, key) for key in keys)
    method = identity(run.config["method"])
    options = identity(expected["method"])
    # an option of the method that an earlier version lacks is no difference
    has_options = all(method[key] == value for key, value in options.items() if key in method)
    has_options &= method.get(GRADIENTS) == options.get(GRADIENTS)
    return is_same and bool(method) and has_options and _has_tasks(spec, row, run.tasks)


def _has_tasks(spec: TableSpec, row: str, tasks: tuple[str, ...] | None) -> bool:
    if spec.rows[row].per_task:
        return tasks is not None and len(tasks) == 1 and tasks[0] in spec.tasks
    return tasks is None or not spec.tasks or set(tasks) == set(spec.tasks)


def _key_of(override: str) -> str:
    """Where an override acts: ``+a.b=1`` at ``a.b``, ``optimizer@model_optimizer=sgd`` there."""
    key = override.lstrip("+~").partition("=")[0]
    return key.rpartition("@")[2]


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _departures(
    spec: TableSpec, cells: Mapping[RunKey, Sequence[Run]], expected: Configurations
) -> list[str]:
    """Settings of finished runs that are not the table's, the keys of its grid aside."""
    texts = grouped(
        item
        for key, runs in cells.items()
        for run in runs
        if run.is_finished
        for item in _differences(spec, key.row, run, expected[key.row]).items()
    )
    names = [f"{name} {', '.join(values)}" for name, values in texts.items()]
    return [f"Not the table's own setting: {'; '.join(names)}."] if names else []


def _differences(
    spec: TableSpec, row: str, run: Run, expected: Mapping[str, Any]
) -> dict[str, str]:
    """By key, what a run has instead of its row's setting."""
    actual = run.setting
    of_row = setting(expected, run.summary.select)
    if not spec.rows[row].per_task and not spec.tasks:  # else its tasks are the row's
        actual["tasks"] = run.tasks or "all"
        of_row["tasks"] = tuple(expected.get("tasks") or ()) or "all"
    in_grid = () if spec.grid is None else spec.grid.values
    return {
        name: f"{override_value(value)} instead of {override_value(of_row[name])}"
        for name, value in actual.items()
        if name in of_row and name not in in_grid and value != of_row[name]
    }


def one_per_cell(groups: Mapping[RunKey, Sequence[Run]]) -> tuple[dict[RunKey, Run], list[str]]:
    """Choose the run of every cell: a finished one, of several the newest, which a note says.

    Args:
        groups: Runs by cell.

    Returns:
        The runs, and the notes.

    Raises:
        ConfigError: If finished runs of one row (and task) differ in their settings, or those of
            one row in what they were measured on: their seeds would not be seeds of one thing.
    """
    finished = {key: [run for run in runs if run.is_finished] for key, runs in groups.items()}
    _check_rows(finished)
    chosen = {}
    notes: list[str] = []
    for key, runs in groups.items():
        by_start = sorted(finished[key] or runs, key=lambda run: run.summary.started or "")
        chosen[key] = by_start[-1]
        if len(finished[key]) > 1:
            times = f"{len(finished[key])} times"
            text = f"{key} was run {times}; the newest counts, {chosen[key].folder}."
            notes.append(Detail(text))
    if notes:
        several = "1 cell was" if len(notes) == 1 else f"{len(notes)} cells were"
        notes.insert(0, f"{several} run several times; the newest run counts.")
    return chosen, notes


def _check_rows(finished: Mapping[RunKey, Sequence[Run]]) -> None:
    by_place: dict[tuple[str, str | None], list[Run]] = defaultdict(list)
    by_row: dict[str, list[Run]] = defaultdict(list)
    for key, runs in finished.items():
        by_place[key.row, key.task] += runs
        by_row[key.row] += runs
    for (row, _), runs in by_place.items():
        _check_alike(row, runs, [{**run.setting, **conditions([run])} for run in runs])
    for row, runs in by_row.items():
        # runs of single tasks differ in their tasks by nature
        common = [{key: conditions([run])[key] for key in COMMON} for run in runs]
        _check_alike(row, runs, common)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else override_value(value)


def _check_alike(row: str, runs: Sequence[Run], settings: Sequence[Mapping[str, Any]]) -> None:
    keys = varying(settings)
    if not keys:
        return
    folders: dict[str, Path] = {}
    for run, each in zip(runs, settings, strict=True):
        folders.setdefault(_shown(each.get(keys[0], "none")), run.folder)
    values = ", ".join(f"{value} ({folder})" for value, folder in folders.items())
    others = f", and {len(keys) - 1} other keys" if len(keys) > 1 else ""
    raise ConfigError(
        f"The runs of row {row!r} must have the same settings and be measured alike, got "
        f"{keys[0]}: {values}{others}; narrow `runs` to one of them."
    )
