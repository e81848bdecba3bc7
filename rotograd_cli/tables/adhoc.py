"""A table made up from the runs themselves: a row per setting, the columns that they have."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.report import shown_metrics
from rotograd_cli.tables.results import RunKey
from rotograd_cli.tables.runs import Run, named
from rotograd_cli.tables.settings import varying
from rotograd_cli.tables.spec import ColumnSpec, RowSpec, TableSpec

REFERENCE = "VanillaMTL"
ONE_BY_ONE = ("one task at a time",)


def spec_from_runs(
    runs: Sequence[Run],
) -> tuple[TableSpec, dict[RunKey, list[Run]], list[str]]:
    """A table of whatever was run.

    Args:
        runs: Runs.

    Returns:
        The table, the runs by cell, and notes. Rows are distinct settings (configuration without
        seed, tasks, folders and device), named after the method's class and what else differs from
        other rows of that class. A setting that was run on single tasks, one at a time, is one row,
        and the base of a column of gains where there is exactly one such row. Columns are those of
        a sweep's table, and the geometric mean of the losses.

    Raises:
        ConfigError: If no run is finished, or the runs have different data sets.
    """
    finished = [run.summary for run in runs if run.is_finished]
    if not finished:
        raise ConfigError(f"`runs` must name a finished run, got {named(runs)}.")
    data = list(dict.fromkeys(str(summary["data"]) for summary in finished))
    if len(data) > 1:
        raise ConfigError(f"`runs` must be of one data set, got {', '.join(data)}; narrow `runs`.")
    groups = _groups([run for run in runs if run.config is not None])
    cells: dict[RunKey, list[Run]] = defaultdict(list)
    rows = {}
    for name, members in groups.items():
        per_task = _is_per_task(members)
        rows[name] = RowSpec(label=name, per_task=per_task, shown=True)
        for run in members:
            task = run.tasks[0] if per_task and run.tasks else None
            cells[RunKey(name, run.seed, task)].append(run)
    unplaced = [run for run in runs if run.config is None]
    notes = [f"Runs that did not begin: {named(unplaced)}."] if unplaced else []
    return _spec(rows, finished, data[0], cells), cells, notes


def _groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by row; the row's name says the method and what sets it apart."""
    by_row: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    single = _single_task_settings(runs)
    for run in runs:
        key = _setting_key(run)
        by_row[key, ONE_BY_ONE if _has_one_task(run) and key in single else run.tasks].append(run)
    by_method: dict[str, list[list[Run]]] = defaultdict(list)
    for members in by_row.values():
        by_method[_method(members[0])].append(members)
    return {
        f"{method}{words}": members
        for method, groups in by_method.items()
        for members, words in zip(groups, _distinctions(groups), strict=True)
    }


def _setting_key(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, repr(value)) for key, value in run.setting.items()))


def _has_one_task(run: Run) -> bool:
    return run.tasks is not None and len(run.tasks) == 1


def _single_task_settings(runs: Sequence[Run]) -> set[tuple[tuple[str, str], ...]]:
    """Settings that were run on two or more tasks, one at a time."""
    tasks: dict[tuple[tuple[str, str], ...], set[tuple[str, ...] | None]] = defaultdict(set)
    for run in runs:
        if _has_one_task(run):
            tasks[_setting_key(run)].add(run.tasks)
    return {key for key, found in tasks.items() if len(found) > 1}


def _is_per_task(members: Sequence[Run]) -> bool:
    return len({run.tasks for run in members}) > 1


def _method(run: Run) -> str:
    return str((run.config or {}).get("method", {}).get("_target_", "?")).rpartition(".")[2]


def _distinctions(groups: Sequence[Sequence[Run]]) -> list[str]:
    """What sets the rows of one method apart, in words; nothing for a single row."""
    together = {members[0].tasks for members in groups if not _is_per_task(members)}
    settings = []
    for members in groups:
        own = members[0].tasks if len(together) > 1 else None
        tasks = ONE_BY_ONE if _is_per_task(members) else own
        settings.append({**members[0].setting, "tasks": tasks})
    keys = varying(settings)
    return ["".join(_word(key, found.get(key)) for key in keys) for found in settings]


def _word(key: str, value: Any) -> str:
    if key == "tasks" and value in (None, ONE_BY_ONE):
        return "" if value is None else f", {ONE_BY_ONE[0]}"
    text = f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
    return f", {key}={text}"


def _spec(
    rows: Mapping[str, RowSpec],
    summaries: Sequence[Mapping[str, Any]],
    data: str,
    cells: Mapping[RunKey, Sequence[Run]],
) -> TableSpec:
    several = [s for s in summaries if len(s["tasks"]) > 1] or list(summaries)
    metrics = {key: spec for s in several for key, spec in s["metric_specs"].items()}
    statistics = {key: spec for s in several for key, spec in s["statistic_specs"].items()}
    shown = shown_metrics(metrics, statistics)
    columns = {key: ColumnSpec(label=_label(key), metric=key) for key in shown}
    if not columns or any(
        s["metrics"].get("test/geomean_loss") is not None for s in several
    ):  # losses above 0
        label = "geometric mean of losses"
        columns["geomean_loss"] = ColumnSpec(label=label, metric="geomean_loss")
    tasks = list(dict.fromkeys(task for summary in summaries for task in summary["tasks"]))
    bases = [name for name, row in rows.items() if row.per_task]
    base = bases[0] if len(bases) == 1 and len(rows) > 1 else None
    measured = {key.split("/")[0] for summary in summaries for key in summary["metric_specs"]}
    gains = [task for task in tasks if task in measured]
    if base is not None and gains:
        columns = {"delta": ColumnSpec(label="Δ", delta_of=gains), **columns}
    vanilla = [name for name in rows if name.split(",")[0] == REFERENCE and name != base]
    return TableSpec(
        name="runs",
        title=f"Runs on {data}",
        tasks=tasks,
        seeds=len({key.seed for key in cells}),
        base=base,
        delta=None if base is None else "paper",
        statistic="mean_std",
        compare_with=vanilla[0] if len(vanilla) == 1 else None,
        rows=dict(rows),
        columns=columns,
    )


def _label(key: str) -> str:
    return key.replace("/", " ", 1) if "/" in key else key.replace("_", " ", 1)
