"""A table made up from the runs themselves: a row per setting, the columns that they have."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rotograd_cli.config.labels import method_label
from rotograd_cli.errors import ConfigError, override_value
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.terminal import metric_name, shown_metrics
from rotograd_cli.tables.components import collapsed
from rotograd_cli.tables.runs import Run, RunKey, grouped, listed
from rotograd_cli.tables.spec import ColumnSpec, RowSpec, TableSpec

REFERENCE = "Vanilla"
ONE_BY_ONE = "one task at a time"


@dataclass(frozen=True)
class _Group:
    """Runs of one row."""

    runs: Sequence[Run]
    tasks: tuple[str, ...] | str | None
    """What each run was restricted to; ``ONE_BY_ONE`` for runs of single tasks."""

    @property
    def per_task(self) -> bool:
        """Whether they are runs of single tasks, of several together."""
        return self.tasks == ONE_BY_ONE

    @property
    def method(self) -> str:
        """Name of the method for readers."""
        return method_label(self.runs[0].config["method"])


def spec_from_runs(runs: Sequence[Run]) -> tuple[TableSpec, dict[RunKey, list[Run]], list[str]]:
    """Make a table of whatever was run.

    Args:
        runs: Runs.

    Returns:
        The table, the runs by cell, and notes. Rows are distinct settings (configuration without
        seed, tasks, folders and device), named as their method and what else differs from other
        rows of that method. A setting that was run on single tasks, one at a time, is one row,
        and the base of a column of gains where there is exactly one such row. Columns are those of
        a sweep's table, and the geometric mean of the losses.

    Raises:
        ConfigError: If no run is finished, or the runs have different data sets.
    """
    finished = [run.summary for run in runs if run.is_finished]
    if not finished:
        raise ConfigError(f"`runs` must name a finished run, got {listed(runs) or 'none'}.")
    data = list(dict.fromkeys(str(summary.data) for summary in finished))
    if len(data) > 1:
        raise ConfigError(f"`runs` must be of one data set, got {', '.join(data)}; narrow `runs`.")
    groups = _by_name(_groups([run for run in runs if run.config]))
    cells = _cells(groups)
    unplaced = [run for run in runs if not run.config]
    notes = [f"Runs that did not begin: {listed(unplaced)}."] if unplaced else []
    rows = {n: RowSpec(label=n, per_task=g.per_task, shown=True) for n, g in groups.items()}
    num_seeds = len({key.seed for key in cells})
    return _spec(rows, finished, data[0], num_seeds), cells, notes


def cells_of(runs: Sequence[Run]) -> dict[RunKey, list[Run]]:
    """Return runs by row, seed and task, for whatever was run.

    Args:
        runs: Runs that have begun, finished or not.

    Returns:
        By cell; rows are named by the method and what sets them apart from other rows of that
        method, as in the table of :func:`spec_from_runs`.
    """
    return _cells(_by_name(_groups(runs)))


def _cells(groups: Mapping[str, _Group]) -> dict[RunKey, list[Run]]:
    cells: dict[RunKey, list[Run]] = defaultdict(list)
    for name, group in groups.items():
        for run in group.runs:
            cells[RunKey(name, run.seed, run.only_task if group.per_task else None)].append(run)
    return cells


def _groups(runs: Sequence[Run]) -> list[_Group]:
    keyed = [(repr(sorted(run.setting.items())), run) for run in runs]
    alone = grouped((key, run.only_task) for key, run in keyed if run.only_task is not None)
    groups: dict[tuple[str, Any], list[Run]] = defaultdict(list)
    for key, run in keyed:
        is_one_of_several = run.only_task is not None and len(alone[key]) > 1
        groups[key, ONE_BY_ONE if is_one_of_several else run.tasks].append(run)
    return [_Group(members, tasks) for (_, tasks), members in groups.items()]


def _by_name(groups: Sequence[_Group]) -> dict[str, _Group]:
    """Groups by the row's name: the method, and what sets it apart from rows of that method."""
    by_method: dict[str, list[_Group]] = defaultdict(list)
    for group in groups:
        by_method[group.method].append(group)
    return {
        f"{method}{distinction}": group
        for method, members in by_method.items()
        for group, distinction in zip(members, _distinctions(members), strict=True)
    }


def _distinctions(groups: Sequence[_Group]) -> list[str]:
    """What sets the rows of one method apart, in words; nothing for a single row."""
    shown_tasks = {group.tasks for group in groups}
    if len(shown_tasks - {ONE_BY_ONE}) == 1:
        shown_tasks &= {ONE_BY_ONE}
    settings = [
        {key: override_value(value) for key, value in group.runs[0].setting.items()}
        | {"tasks": _listed(group.tasks) if group.tasks in shown_tasks else ""}
        for group in groups
    ]
    return ["".join(map(_distinction, each, each.values())) for each in collapsed(settings)]


def _listed(tasks: tuple[str, ...] | str | None) -> str:
    if isinstance(tasks, tuple):
        return f"tasks={override_value(tasks)}"
    return tasks or ""


def _distinction(key: str, text: str) -> str:
    if key == "tasks":
        return f", {text}" if text else ""
    return f", {key}={text}"


def _spec(
    rows: dict[str, RowSpec], summaries: Sequence[RunSummary], data: str, num_seeds: int
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
        rows=rows,
        columns=columns,
    )


def _columns(summaries: Sequence[RunSummary]) -> dict[str, ColumnSpec]:
    """The metrics of the runs of several tasks, and the geometric mean of losses above 0."""
    several = [s for s in summaries if len(s.tasks) > 1] or summaries
    keys = shown_metrics(several)
    columns = {key: ColumnSpec(label=metric_name(key), metric=key) for key in keys}
    has_mean = any(s.metrics.get("test/geomean_loss") is not None for s in several)
    if has_mean or not columns:
        label = "geometric mean of losses"
        columns["geomean_loss"] = ColumnSpec(label=label, metric="geomean_loss")
    return columns
