"""Which row of a table a run belongs to."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rotograd_cli.runs.identity import setting
from rotograd_cli.tables.conditions import evaluated, evaluated_by
from rotograd_cli.tables.runs import Run, RunKey, listed
from rotograd_cli.tables.schema import TableSpec

NETWORK = ("data", "backbone", "head")
"""Components that a run must share with the table's experiment."""


def match_runs(
    spec: TableSpec, runs: Sequence[Run], expected: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[RunKey, list[Run]], list[str]]:
    """Cells of the runs of a table.

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
    strangers, cut = [], []
    for run in runs:
        key = None if run.config is None else _key(spec, run, expected)
        if key is None:
            strangers.append(run)
        elif not _evaluates_the_same(run, expected[key.row]):
            cut.append(run)
        else:
            cells[key].append(run)
    notes = [f"Runs of no row of this table: {listed(strangers)}."] if strangers else []
    if cut:
        part = evaluated(cut[0])
        notes.append(
            "Left out, as they do not evaluate what the table does (train.limit_eval_batches): "
            f"{listed(cut)}; the first one {part}. Without `table=` they are rows of their own."
        )
    return cells, [*_departures(spec, cells, expected), *notes]


def _evaluates_the_same(run: Run, expected: Mapping[str, Any]) -> bool:
    """Whether a run has no evaluation yet, or one of the row's examples."""
    sizes = run.summary.get("num_examples") or {}
    same = evaluated(run) == evaluated_by(expected, sizes)
    return same or not run.is_finished


def _key(spec: TableSpec, run: Run, expected: Mapping[str, Mapping[str, Any]]) -> RunKey | None:
    rows = [row for row in expected if _belongs(spec, row, run, expected[row])]
    if not rows:
        return None
    row = max(rows, key=lambda name: len(spec.rows[name].overrides))
    task = run.only_task if spec.rows[row].per_task else None
    return RunKey(row, run.seed, task)


def _belongs(spec: TableSpec, row: str, run: Run, expected: Mapping[str, Any]) -> bool:
    assert run.config is not None
    for group in NETWORK:
        if _target(run.config, group) != _target(expected, group):
            return False
    if not _same_options(run.config.get("method"), expected.get("method")):
        return False
    keys = [_key_of(word) for word in spec.rows[row].overrides]
    if any(_at(run.config, key) != _at(expected, key) for key in keys if key != "method"):
        return False
    return _fitting_tasks(spec, spec.rows[row].per_task, run.tasks)


def _fitting_tasks(spec: TableSpec, per_task: bool, tasks: tuple[str, ...] | None) -> bool:
    if per_task:
        return tasks is not None and len(tasks) == 1 and tasks[0] in spec.tasks
    return tasks is None or not spec.tasks or set(tasks) == set(spec.tasks)


def _target(config: Mapping[str, Any], group: str) -> Any:
    return (config.get(group) or {}).get("_target_")


def _same_options(found: Any, wanted: Any) -> bool:
    """Equal in what both know: an option that one version lacks is no difference."""
    if not isinstance(found, Mapping) or not isinstance(wanted, Mapping):
        return False
    return all(found[key] == value for key, value in wanted.items() if key in found)


def _key_of(word: str) -> str:
    """Where an override acts: ``+a.b=1`` at ``a.b``, ``optimizer@model_optimizer=sgd`` there."""
    key = re.split("=", word.lstrip("+~"), maxsplit=1)[0]
    return key.rpartition("@")[2]


def _at(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _settings(run: Run, expected: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a run and of its row, tasks among them."""
    wanted = setting(expected, run.summary.get("select"))
    own_tasks = {"tasks": _list(run.tasks)}
    return {**run.setting, **own_tasks}, {**wanted, "tasks": _list(expected.get("tasks"))}


def _list(tasks: Sequence[str] | None) -> str:
    return "all" if tasks is None else f"[{','.join(tasks)}]"


def _departures(
    spec: TableSpec,
    cells: Mapping[RunKey, Sequence[Run]],
    expected: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Settings of finished runs that are not the table's, the keys of its grid aside."""
    grid = () if spec.grid is None else tuple(spec.grid.values)
    found: dict[str, list[str]] = defaultdict(list)
    for key, runs in cells.items():
        for run in runs:
            own, wanted = _settings(run, expected[key.row]) if run.is_finished else ({}, {})
            if spec.rows[key.row].per_task or spec.tasks:  # the run's tasks are the row's
                own.pop("tasks", None)
            for name in own:
                if name in wanted and name not in grid and own[name] != wanted[name]:
                    text = f"{own[name]} instead of {wanted[name]}"
                    if text not in found[name]:
                        found[name].append(text)
    texts = [f"{name} {', '.join(values)}" for name, values in found.items()]
    return [f"Not the table's own setting: {'; '.join(texts)}."] if texts else []
