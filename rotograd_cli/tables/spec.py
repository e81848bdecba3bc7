"""A table's specification: checked, cut to the rows that are wanted, and what it says of a cell."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.config import suggest, typed
from rotograd_cli.tables.checks import check_spec
from rotograd_cli.tables.schema import TableSpec


@dataclass(frozen=True)
class PaperValue:
    """A printed number."""

    value: float
    spread: float | None = None
    mark: str = ""


def to_table_spec(content: DictConfig | Mapping[str, Any]) -> TableSpec:
    """Return the typed and checked table.

    Args:
        content: Node ``table`` of a composed configuration, or the content of a YAML file.

    Raises:
        ConfigError: If a key is unknown, missing, of a wrong type, or names what is not there.
    """
    spec = typed(content, TableSpec, prefix="table.")
    check_spec(spec)
    return spec


def select_rows(spec: TableSpec, names: Sequence[str] | None) -> TableSpec:
    """Cut a table to the rows that are needed, in its order.

    Args:
        spec: Table.
        names: Rows to show; None takes those that the table shows.

    Returns:
        A table with these rows, ``shown``, and the base row where a gain needs it (not ``shown``
        unless named). Without the row ``compare_with`` among them there is no comparison.

    Raises:
        ConfigError: If a name is no row, is repeated, or none is left.
    """
    shown = [name for name, row in spec.rows.items() if row.shown] if names is None else list(names)
    _check_names(spec, shown)
    needs_base = any(column.delta_of is not None for column in spec.columns.values())
    needed = {*shown, *([spec.base] if needs_base and spec.base is not None else [])}
    rows = {
        name: dataclasses.replace(row, shown=name in shown)
        for name, row in spec.rows.items()
        if name in needed
    }
    compare_with = spec.compare_with if spec.compare_with in shown else None
    return dataclasses.replace(spec, rows=rows, compare_with=compare_with)


def _check_names(spec: TableSpec, names: Sequence[str]) -> None:
    for name in names:
        if name not in spec.rows:
            raise ConfigError(
                f"`methods` must name rows of the table, got {name!r}; "
                f"{suggest(name, list(spec.rows))}"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"`methods` must name each row once, got [{', '.join(names)}].")
    if not names:
        raise ConfigError("`methods` must name at least one row of the table, got [].")


def row_overrides(spec: TableSpec, row: str) -> list[str]:
    """Return the overrides of a row's runs but for seed, tasks and grid; later ones win.

    They are the experiment, the table's own and the row's.
    """
    experiment = [] if spec.experiment is None else [f"experiment={spec.experiment}"]
    return [*experiment, *spec.overrides, *spec.rows[row].overrides]


def row_label(spec: TableSpec, row: str) -> str:
    """Return the name of a row in the table."""
    return spec.rows[row].label or row


def paper_value(spec: TableSpec, row: str, column: str) -> PaperValue | None:
    """Return the number that the paper printed for a cell; None if it printed none."""
    printed = None if spec.paper is None else spec.paper.rows.get(row, {}).get(column)
    if printed is None:
        return None
    if not isinstance(printed, list):
        return PaperValue(float(printed))
    value, spread, mark = (*printed, None, None)[:3]
    return PaperValue(float(value), None if spread is None else float(spread), mark or "")
