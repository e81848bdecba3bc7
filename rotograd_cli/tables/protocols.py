"""Which results a column may hold: those of one protocol.

A metric declares the protocol by which it averages (``MetricSpec.protocol``), and a run whether its
test metrics are means over its last epochs. Numbers that differ in either stand in columns of their
own, each named with its protocol.
"""

import dataclasses
from collections import defaultdict

from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.summary import in_words
from rotograd_cli.tables.results import Results, SeedResult, metric_specs
from rotograd_cli.tables.spec import TableSpec


def by_protocol(name: str, table: TableSpec, results: Results) -> dict[str, Results]:
    """Divide the results of a table by the protocol of one of its columns.

    Args:
        name: Column.
        table: Table.
        results: Its results.

    Returns:
        By protocol in words, in the order of the rows: the results of that protocol, the other rows
        without any. One entry where the column does not depend on what the rows differ in.
    """
    metrics = _metrics_of(name, table, set(metric_specs(results.runs)))
    rows: dict[str, dict[str, dict[int, SeedResult]]] = defaultdict(
        lambda: {row: {} for row in results.rows}
    )
    for row, seeds in results.rows.items():
        for seed, result in seeds.items():
            rows[_protocol(result, metrics)][row][seed] = result
    if len(rows) < 2:
        return {"": results}
    return {words: dataclasses.replace(results, rows=each) for words, each in rows.items()}


def _metrics_of(name: str, table: TableSpec, measured: set[MetricKey]) -> set[MetricKey]:
    """Return the metrics that the numbers of a column are made of."""
    column = table.columns[name]
    tasks = column.delta_of or ()
    own = {key for key in measured if str(key) == column.metric or key.task in tasks}
    others = [_metrics_of(each, table, measured) for each in column.mean_rank_of or ()]
    return own.union(*others)


def _protocol(result: SeedResult, metrics: set[MetricKey]) -> str:
    summaries = [run.summary for run in result.runs]
    return in_words(part for s in summaries for key in metrics for part in s.protocols_of(str(key)))
