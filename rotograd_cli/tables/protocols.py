"""Which results a column may hold: those of one protocol (:mod:`rotograd_cli.runs.protocols`)."""

from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.protocols import protocol_of, suffixes
from rotograd_cli.tables.results import Results, Rows, metric_specs
from rotograd_cli.tables.spec import TableSpec


def by_protocol(name: str, table: TableSpec, results: Results) -> dict[str, Rows]:
    """Divide the results of a table by the protocol of one of its columns.

    Args:
        name: Column.
        table: Table.
        results: Its results.

    Returns:
        By what the column's name adds, in the order of the rows: the results of that protocol, the
        other rows without any. One entry where the column does not depend on what the rows differ
        in.
    """
    metrics = [str(key) for key in _metrics_of(name, table, set(metric_specs(results.runs)))]
    protocols = {
        (row, seed): protocol_of([run.summary for run in result.runs], metrics) if metrics else ""
        for row, seeds in results.rows.items()
        for seed, result in seeds.items()
    }
    return {
        suffix: {
            row: {seed: each for seed, each in seeds.items() if protocols[row, seed] == protocol}
            for row, seeds in results.rows.items()
        }
        for protocol, suffix in suffixes(protocols.values() or [""]).items()
    }


def _metrics_of(name: str, table: TableSpec, measured: set[MetricKey]) -> set[MetricKey]:
    """Return the metrics that the numbers of a column are made of."""
    column = table.columns[name]
    tasks = column.delta_of or ()
    own = {key for key in measured if str(key) == column.metric or key.task in tasks}
    others = [_metrics_of(each, table, measured) for each in column.mean_rank_of or ()]
    return own.union(*others)
