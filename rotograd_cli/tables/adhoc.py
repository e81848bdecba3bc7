"""A table made up from the runs themselves: a row per setting, the columns that they have."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.report import shown_metrics
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.runs import Run, RunKey, listed, varying
from rotograd_cli.tables.spec import ColumnSpec, RowSpec, TableSpec

REFERENCE = "VanillaMTL"
ONE_BY_ONE = "one task at a time"
SettingKey = tuple[tuple[str, str], ...]


def spec_from_runs(runs: Sequence[Run]) -> tuple[TableSpec, dict[RunKey, list[Run]], list[str]]:
    """Make a table of whatever was run.

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
        raise ConfigError(f"`runs` must name a finished run, got {listed(runs)}.")
    data = list(dict.fromkeys(str(summary.data) for summary in finished))
    if len(data) > 1:
        raise ConfigError(f"`runs` must be of one data set, got {', '.join(data)}; narrow `runs`.")
    cells: dict[RunKey, list[Run]] = defaultdict(list)
    rows = {}
    for name, members in _groups([run for run in runs if run.config is not None]).items():
        per_task = _is_per_task(members)
        rows[name] = RowSpec(label=name, per_task=per_task, shown=True)
        for run in members:
            cells[RunKey(name, run.seed, run.only_task if per_task else None)].append(run)
    unplaced = [run for run in runs if run.config is None]
    notes = [f"Runs that did not begin: {listed(unplaced)}."] if unplaced else []
    num_seeds = len({key.seed for key in cells})
    return _spec(rows, finished, data[0], num_seeds), cells, notes


def _groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by row; the row's name says the method and what sets it apart."""
    tasks: dict[SettingKey, set[str]] = defaultdict(set)
    for run in runs:
        if run.only_task is not None:
            tasks[_setting_key(run)].add(run.only_task)
    by_row: dict[tuple[SettingKey, Any], list[Run]] = defaultdict(list)
    for run in runs:
        key = _setting_key(run)
        is_one_of_several = run.only_task is not None and len(tasks[key]) > 1
        by_row[key, ONE_BY_ONE if is_one_of_several else run.tasks].append(run)
    by_method: dict[str, list[list[Run]]] = defaultdict(list)
    for members in by_row.values():
        by_method[_method_name(members[0])].append(members)
    return {
        f"{method}{distinction}": members
        for method, groups in by_method.items()
        for members, distinction in zip(groups, _distinctions(groups), strict=True)
    }


def _method_name(run: Run) -> str:
    """Class of the method, and of the rule where the method has one of the user's choice."""
    method = run.section("method") or {}
    targets = [str(node.get("_target_", "?")) for node in (method, method.get("rule")) if node]
    return " + ".join(target.rpartition(".")[2] for target in targets)


def _setting_key(run: Run) -> SettingKey:
    return tuple(sorted((key, repr(value)) for key, value in run.setting.items()))


def _is_per_task(members: Sequence[Run]) -> bool:
    return len({run.tasks for run in members}) > 1


def _distinctions(groups: Sequence[Sequence[Run]]) -> list[str]:
    """What sets the rows of one method apart, in words; nothing for a single row."""
    joint_tasks = {members[0].tasks for members in groups if not _is_per_task(members)}
    settings = []
    for members in groups:
        tasks: Any = None
        if _is_per_task(members):
            tasks = ONE_BY_ONE
        elif len(joint_tasks) > 1:
            tasks = members[0].tasks
        settings.append({**members[0].setting, "tasks": tasks})
    keys = varying(settings)
    return ["".join(_distinction(key, each.get(key)) for key in keys) for each in settings]


def _distinction(key: str, value: Any) -> str:
    if key == "tasks" and not isinstance(value, tuple):
        return f", {value}" if value else ""
    text = f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
    return f", {key}={text}"


def _spec(
    rows: Mapping[str, RowSpec], summaries: Sequence[RunSummary], data: str, num_seeds: int
) -> TableSpec:
    tasks = list(dict.fromkeys(task for summary in summaries for task in summary.tasks))
    bases = [name for name, row in rows.items() if row.per_task]
    base = bases[0] if len(bases) == 1 and len(rows) > 1 else None
    columns = _columns(summaries)
    measured = {MetricKey.parse(key).task for s in summaries for key in s.metric_specs}
    with_gain = [task for task in tasks if task in measured]
    if base is not None and with_gain:
        columns = {"delta": ColumnSpec(label="Δ", delta_of=with_gain), **columns}
    vanilla = [name for name in rows if name.split(",")[0] == REFERENCE and name != base]
    return TableSpec(
        name="runs",
        title=f"Runs on {data}",
        tasks=tasks,
        seeds=num_seeds,
        base=base,
        delta=None if base is None else "paper",
        statistic="mean_std",
        compare_with=vanilla[0] if len(vanilla) == 1 else None,
        rows=dict(rows),
        columns=columns,
    )


def _columns(summaries: Sequence[RunSummary]) -> dict[str, ColumnSpec]:
    """The metrics of the runs of several tasks, and the geometric mean of losses above 0."""
    several = [s for s in summaries if len(s.tasks) > 1] or list(summaries)
    columns = {key: ColumnSpec(label=_label(key), metric=key) for key in shown_metrics(several)}
    has_mean = any(s.metrics.get("test/geomean_loss") is not None for s in several)
    if has_mean or not columns:
        label = "geometric mean of losses"
        columns["geomean_loss"] = ColumnSpec(label=label, metric="geomean_loss")
    return columns


def _label(key: str) -> str:
    task, name = MetricKey.parse(key)
    return name.replace("_", " ", 1) if task is None else f"{task} {name}"
