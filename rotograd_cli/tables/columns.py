"""Which kind a column of a table is, and whether its keys fit together."""

from collections.abc import Iterator, Mapping

from rotograd_cli.tables.kinds import CountWithin, Gain, Hours, Kind, MeanRank, Metric
from rotograd_cli.tables.spec import ColumnSpec, TableSpec

KINDS: Mapping[str, type[Kind]] = {
    "metric": Metric,
    "delta_of": Gain,
    "hours": Hours,
    "mean_rank_of": MeanRank,
}
"""By the key of a column, of which it has exactly one."""
OPTIONS = ("percent", "count_within", "over")
"""Keys that only some kinds take."""


def kind_of(name: str, table: TableSpec) -> Kind:
    """Return a column of a table as the kind that its keys say."""
    column = table.columns[name]
    if column.metric is not None and column.count_within is not None:
        return CountWithin(name, table)
    return KINDS[_kinds(column)[0]](name, table)


def column_faults(table: TableSpec) -> Iterator[str]:
    """Yield what is wrong with the columns of a table; later faults presume earlier ones."""
    for name, column in table.columns.items():
        kinds = _kinds(column)
        if len(kinds) != 1:
            *others, last = KINDS
            yield (
                f"`table.columns.{name}` must have exactly one of {', '.join(others)} and {last}, "
                f"got {' and '.join(kinds) or 'none'}."
            )
        kind = kind_of(name, table)
        for key in OPTIONS:
            value = getattr(column, key)
            if value != getattr(ColumnSpec, key) and key not in kind.OPTIONS:
                beside = " and ".join([*kinds, *sorted(kind.OPTIONS & {"count_within"})])
                yield (
                    f"`table.columns.{name}` takes no {key} beside {beside}, got {value}; leave it "
                    "out."
                )
        yield from kind.faults()


def column_notes(table: TableSpec) -> list[str]:
    """Return what a reader must know of the kinds of a table's columns."""
    return [note for name in table.columns for note in kind_of(name, table).notes()]


def _kinds(column: ColumnSpec) -> list[str]:
    return [key for key in KINDS if getattr(column, key) not in (None, False)]
