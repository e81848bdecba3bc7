"""Tables of finished runs, as ``rotograd table`` asks for them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

from rotograd_cli.config.compose import component_names, component_node
from rotograd_cli.config.labels import class_label, method_label
from rotograd_cli.config.overrides import composed
from rotograd_cli.config.schema import to_train_config, typed
from rotograd_cli.errors import ConfigError
from rotograd_cli.tables.adhoc import spec_from_runs
from rotograd_cli.tables.cells import difference, match_runs, one_per_cell
from rotograd_cli.tables.checks import check_spec
from rotograd_cli.tables.latex import Layout
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.results import collect
from rotograd_cli.tables.runs import Run, RunKey, find_runs
from rotograd_cli.tables.seeds import to_seeds
from rotograd_cli.tables.spec import Statistic, TableSpec
from rotograd_cli.tables.table import build_table


@dataclass
class TableCommand:
    """Everything of ``rotograd table``; ``conf/table.yaml`` says what each key means."""

    runs: Any = MISSING
    """Patterns of run directories; in the YAML file also a single one."""
    table: TableSpec | None = None
    statistic: Statistic | None = None
    seeds: Any = None
    """Seeds, None for all; in the YAML file also their number."""
    methods: list[str] | None = None
    output: str | None = None
    latex: Layout = "auto"
    verbose: bool = False


def register_schema() -> None:
    """Register the schema with Hydra under the name that ``conf/table.yaml`` uses."""
    ConfigStore.instance().store(name="table_command_schema", node=TableCommand)


def to_table_command(config: DictConfig | Mapping[str, Any]) -> TableCommand:
    """Return the typed and checked configuration of the command.

    Args:
        config: Composed configuration.

    Returns:
        The configuration; ``runs`` is a list, and ``seeds`` a list or None.

    Raises:
        ConfigError: If a key is unknown, missing, of a wrong type or out of range.
    """
    command = typed(config, TableCommand)
    if command.table is not None:
        check_spec(command.table)
    if command.output is not None and not command.output.strip():
        raise ConfigError(f"`output` must name a folder, got {command.output!r}; null for none.")
    runs = to_patterns(command.runs)
    return dataclasses.replace(command, runs=runs, seeds=to_seeds(command.seeds))


def to_patterns(value: Any) -> list[str]:
    """Return the patterns of ``runs=GLOB`` or ``runs=[GLOB,...]``.

    Raises:
        ConfigError: If it is none of them.
    """
    runs = value if isinstance(value, list) else [value]
    if not runs or not all(isinstance(pattern, str) and pattern.strip() for pattern in runs):
        raise ConfigError(f"`runs` must be a path, a pattern or a list of them, got {runs!r}.")
    return runs


def table_of_runs(
    command: TableCommand, columns_of: Callable[[TableSpec], TableSpec] | None = None
) -> Table:
    """Build the table that was asked for. Hydra must be running.

    Args:
        command: Checked configuration.
        columns_of: Puts other columns in place of the table's own.

    Returns:
        The table.

    Raises:
        ConfigError: If no run is found or none belongs to the table, or runs of one row differ in
            their settings.
    """
    seeds = command.seeds
    all_runs = find_runs(command.runs)
    runs = [run for run in all_runs if seeds is None or not run.config or run.seed in seeds]
    if command.table is None:
        spec, groups, notes = spec_from_runs(runs)
        spec = _chosen(spec, command.methods)
    else:
        spec, groups, notes = _matched(command.table, runs, command.methods)
    spec = spec if columns_of is None else columns_of(spec)
    cells, repeated = one_per_cell({k: group for k, group in groups.items() if k.row in spec.rows})
    results = collect(spec, cells, seeds or sorted({key.seed for key in cells}))
    return build_table(spec, results, statistic=command.statistic, notes=[*notes, *repeated])


def _matched(
    spec: TableSpec, runs: Sequence[Run], methods: Sequence[str] | None
) -> tuple[TableSpec, dict[RunKey, list[Run]], list[str]]:
    """The table with the rows to show, the runs by cell, and notes."""
    rows = spec.rows if methods is None else spec.select(methods).rows
    expected = {row: _expected(spec, row) for row in rows}
    groups, notes = match_runs(spec, runs, expected)
    if not groups:
        why = f"{difference(runs, expected)}. {notes[-1]}" if notes else "no run of these seeds."
        raise ConfigError(f"`runs` must hold runs of table {spec.name!r}, got none: {why}")
    return spec.select(methods or _rows_to_show(spec, groups)), groups, notes


def _expected(spec: TableSpec, row: str) -> dict[str, Any]:
    try:
        return asdict(to_train_config(composed("train", spec.overrides_of(row))))
    except ConfigError as error:
        raise ConfigError(f"Row {row!r}: {error}") from error


def _rows_to_show(spec: TableSpec, groups: Mapping[RunKey, Sequence[Run]]) -> list[str]:
    """Rows with runs, and the table's own with printed numbers."""
    printed = {} if spec.paper is None else spec.paper.rows
    with_runs = {key.row for key in groups}
    return [n for n, row in spec.rows.items() if n in with_runs or (row.shown and n in printed)]


def _chosen(spec: TableSpec, methods: Sequence[str] | None) -> TableSpec:
    """Rows of a table made up from runs: by their name, or all that begin with the method's."""
    if methods is None:
        return spec
    names = []
    for method in methods:
        wanted = (method.lower(), _label_of(method).lower())
        rows = [n for n in spec.rows if n.lower() in wanted or n.split(",")[0].lower() in wanted]
        names += rows or [method]  # which is refused
    return spec.select(names)


def _label_of(method: str) -> str:
    """Return the label of a file of ``conf/method`` or of a class; any other name as it is."""
    if method not in component_names("method"):
        return class_label(method)
    return method_label(component_node("method", method))
