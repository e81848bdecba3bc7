"""Checks of a table that its types cannot express."""

import re
from collections.abc import Iterable, Mapping

from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.config import suggest
from rotograd_cli.tables.schema import ColumnSpec, GridSpec, PaperSpec, TableSpec

STATISTICS = ("median_std", "mean_std", "mean_ci95")
CONVENTIONS = ("paper", "nash", "libmtl")


def check_spec(spec: TableSpec) -> None:
    """Refuse a table that refers to what it does not have."""
    if not re.fullmatch(r"[\w.-]+", spec.name):
        raise ConfigError(f"`table.name` must be a word (it names files), got {spec.name!r}.")
    if spec.seeds < 1:
        raise ConfigError(f"`table.seeds` must be at least 1, got {spec.seeds}.")
    check_choice("table.statistic", spec.statistic, STATISTICS)
    if spec.delta is not None:
        check_choice("table.delta", spec.delta, CONVENTIONS)
    for key, entries in (("rows", spec.rows), ("columns", spec.columns)):
        if not entries:
            raise ConfigError(f"`table.{key}` must have at least one entry, got none.")
    for key, row in (("base", spec.base), ("compare_with", spec.compare_with)):
        if row is not None:
            _check_in_table(f"table.{key}", row, spec.rows)
    _check_rows(spec)
    for name, column in spec.columns.items():
        _check_column(spec, name, column)
    if spec.grid is not None:
        _check_grid(spec.grid)
    if spec.paper is not None:
        _check_paper(spec, spec.paper)


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Refuse the value of a key that is none of the choices, and suggest the closest one."""
    options = list(choices)
    if value not in options:
        raise ConfigError(
            f"`{key}` must be one of {', '.join(options)}, got {value!r}; {suggest(value, options)}"
        )


def _check_in_table(key: str, name: str, names: Mapping[str, object]) -> None:
    if name not in names:
        raise ConfigError(f"`{key}` is not in the table: {name!r}; {suggest(name, list(names))}")


def _check_rows(spec: TableSpec) -> None:
    for name, row in spec.rows.items():
        if row.per_task and not spec.tasks:
            raise ConfigError(
                f"`table.tasks` must name the tasks that row {name!r} (per_task) trains one by "
                "one, got []."
            )
        for word in row.overrides:
            if "=" not in word:
                raise ConfigError(
                    f"`table.rows.{name}.overrides` must hold KEY=VALUE words, got {word!r}."
                )


def _check_column(spec: TableSpec, name: str, column: ColumnSpec) -> None:
    key = f"table.columns.{name}"
    kinds = (column.metric is not None, column.delta_of is not None, column.hours)
    if sum(kinds) != 1:
        raise ConfigError(
            f"`{key}` must have exactly one of metric, delta_of and hours, got {sum(kinds)}."
        )
    if column.better is not None:
        check_choice(f"{key}.better", column.better, ("higher", "lower"))
    if column.digits is not None and not 0 <= column.digits <= 10:
        raise ConfigError(f"`{key}.digits` must be in 0..10, got {column.digits}.")
    if column.delta_of is not None:
        _check_delta(spec, key, column.delta_of)


def _check_delta(spec: TableSpec, key: str, tasks: list[str]) -> None:
    if spec.delta is None:
        raise ConfigError(f"`table.delta` must name a convention, as `{key}` is a gain; got null.")
    if spec.delta == "paper" and spec.base is None:
        raise ConfigError(f"`table.base` must name a row, as `{key}` is relative to it; got null.")
    if not tasks:
        raise ConfigError(f"`{key}.delta_of` must name at least one task, got [].")
    if spec.delta == "nash" and sorted(tasks) != ["depth", "normals", "segmentation"]:
        raise ConfigError(
            f"`{key}.delta_of` must be [segmentation, depth, normals], as the convention nash "
            f"averages all their metrics, got {tasks}."
        )
    for task in tasks if spec.tasks else []:
        if task not in spec.tasks:
            raise ConfigError(
                f"`{key}.delta_of` must name tasks of `table.tasks`, got {task!r}; "
                f"{suggest(task, spec.tasks)}"
            )


def _check_grid(grid: GridSpec) -> None:
    for name, entries in (("values", grid.values), ("seeds", grid.seeds)):
        if not entries:
            raise ConfigError(f"`table.grid.{name}` must not be empty; table.grid=null for none.")
    for name, values in grid.values.items():
        if not values:
            raise ConfigError(f"`table.grid.values.{name}` must list values, got [].")


def _check_paper(spec: TableSpec, paper: PaperSpec) -> None:
    for column in paper.columns:
        _check_in_table("table.paper.columns", column, spec.columns)
    for row, cells in paper.rows.items():
        _check_in_table("table.paper.rows", row, spec.rows)
        for column, printed in cells.items():
            _check_in_table(f"table.paper.rows.{row}", column, spec.columns)
            if not _is_printed(printed):
                raise ConfigError(
                    f"`table.paper.rows.{row}.{column}` must be a number, [value, spread] or "
                    f"[value, spread, mark], got {printed!r}."
                )


def _is_printed(printed: object) -> bool:
    if not isinstance(printed, list):
        return printed is None or _is_number(printed)
    if not 1 <= len(printed) <= 3:
        return False
    value, spread, mark = (*printed, None, None)[:3]
    spread_ok = spread is None or _is_number(spread)
    return _is_number(value) and spread_ok and (mark is None or isinstance(mark, str))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
