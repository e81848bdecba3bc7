"""The kinds of columns, a class each: what one shows, its unit, direction, decimals, refusals."""

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rotograd_cli.errors import ConfigError, listed
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.summary import MetricDisplay
from rotograd_cli.tables.columns import Content, Kind, Source, Values, check_measured
from rotograd_cli.tables.parts import Detail
from rotograd_cli.tables.spec import ColumnSpec, TableSpec, unknown

if TYPE_CHECKING:  # imports torch, which checking a table takes no part in
    from rotograd_cli.tasks.metrics import Better

NASH_TASKS = ["depth", "normals", "segmentation"]
OPPOSITE: Mapping["Better | None", "Better | None"] = {
    "higher": "lower",
    "lower": "higher",
    None: None,
}


class Metric(Kind):
    """A metric of the test split at the selected epoch, times 100 where it is shown in percent."""

    OPTIONS = frozenset({"percent"})

    def content(self, source: Source) -> Content:
        """Return the metric, with the direction that it declares."""
        metric = MetricKey.parse(str(self.spec.metric))
        declared = self._declared(metric, source)
        is_percent = declared.percent if self.spec.percent is None else self.spec.percent
        values = self._values(metric, source, 100.0 if is_percent else 1.0)
        return Content("%" if is_percent else "", declared.better, values)

    def _declared(self, metric: MetricKey, source: Source) -> MetricDisplay:
        if len(source.metrics) > 1:
            measured = list(map(str, source.metrics))
            check_measured(f"columns.{self.name}.metric", str(metric), measured)
        return source.metrics.get(metric, MetricDisplay(None, False))

    def _values(self, metric: MetricKey, source: Source, factor: float = 1.0) -> Values:
        return {
            row: {s: factor * r.metrics[metric] for s, r in seeds.items() if metric in r.metrics}
            for row, seeds in source.rows.items()
        }

    def digits(self, unit: str, largest: float) -> int:
        """Return 2 with a unit; without, so many that four figures or so remain."""
        if unit or largest >= 10:
            return 2
        return 3 if largest >= 1 else 4


class CountWithin(Metric):
    """Number of seeds whose metric is at most a bound; the value of a seed is 1 or 0."""

    OPTIONS = frozenset({"count_within"})
    COUNTS_SEEDS = True

    def faults(self) -> Iterator[str]:
        """Refuse a bound that nothing or everything is within."""
        bound = self.spec.count_within
        if bound is None or not math.isfinite(bound):
            key = f"table.columns.{self.name}.count_within"
            yield f"`{key}` must be a finite number, got {bound}; {key}=1.0."

    def content(self, source: Source) -> Content:
        """Return the counts; more seeds within are better where a lower metric is."""
        metric = MetricKey.parse(str(self.spec.metric))
        declared = self._declared(metric, source)
        bound = float(self.spec.count_within or 0.0)
        values = {
            row: {seed: _is_within(value, bound) for seed, value in seeds.items()}
            for row, seeds in self._values(metric, source).items()
        }
        finite = {row: [v for v in seeds.values() if v == v] for row, seeds in values.items()}
        centres = {row: sum(ones) for row, ones in finite.items() if ones}
        return Content("", OPPOSITE[declared.better], values, centres)

    def notes(self) -> list[str]:
        """Return what is counted."""
        return [
            f"{self.label}: seeds whose {self.spec.metric} is at most {self.spec.count_within:g}, "
            "of those with a result; differences are of their share."
        ]


class Gain(Kind):
    """Gains over single tasks, in the table's convention (``delta.py``), joined over tasks."""

    OPTIONS = frozenset({"over"})

    def faults(self) -> Iterator[str]:
        """Refuse what the convention does not define."""
        key = f"columns.{self.name}"
        tasks = self.spec.delta_of or []
        convention = self.table.delta
        if convention is None:
            yield f"`table.delta` must name a convention, as `table.{key}` is a gain; got null."
        if convention in ("paper", "famo") and self.table.base is None:
            yield f"`table.base` must name a row, as `table.{key}` is relative to it; got null."
        if not tasks:
            yield f"`table.{key}.delta_of` must name at least one task, got []."
        if convention == "nash" and sorted(tasks) != NASH_TASKS:
            yield (
                f"`table.{key}.delta_of` must be [segmentation, depth, normals], as the convention "
                f"nash averages all their metrics, got {tasks}."
            )
        if convention in ("nash", "famo") and self.spec.over != "mean":
            yield (
                f"`table.{key}.over` must be mean, as the convention {convention} defines no other "
                f"number, got {self.spec.over}; leave it out."
            )
        if self.table.tasks:
            yield from unknown(f"{key}.delta_of", tasks, self.table.tasks)

    def content(self, source: Source) -> Content:
        """Return the gains in percent."""
        from rotograd_cli.tables.delta import BETTER, gains

        convention = str(self.table.delta)
        tasks = self.spec.delta_of or []
        found = gains(convention, tasks, source.rows, self.table.base, self.spec.over)
        return Content("%", BETTER[convention], found.values, omitted=found.omitted)

    def notes(self) -> list[str]:
        """Return what stands in place of the mean over tasks, which is the convention's."""
        if self.spec.over == "mean":
            return []
        word = {"median": "median", "max": "largest"}[self.spec.over]
        return [f"{self.label}: of each seed the {word} of the gains of its tasks, not their mean."]


class Hours(Kind):
    """Wall time of the training steps; not ranked, as it depends on what else the machine did."""

    IS_COMPARED = False

    def content(self, source: Source) -> Content:
        """Return the hours of a seed, summed over its runs."""
        values = {
            row: {
                seed: sum(run.summary.train_s or 0.0 for run in result.runs) / 3600
                for seed, result in seeds.items()
            }
            for row, seeds in source.rows.items()
        }
        return Content("h", None, values)


class MeanRank(Kind):
    """The literature's MR: mean over columns of a row's rank by its number there, 1 is best.

    Ties share the mean of their places. Rows without a number in one of the columns have no rank,
    and the others are ranked without them. It is one number of all seeds: it has no spread and is
    not compared.

    References:
        Navon et al., "Multi-Task Learning as a Bargaining Game" (Nash-MTL), ICML 2022; Liu et al.,
        "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023.
    """

    IS_COMPARED = False

    def faults(self) -> Iterator[str]:
        """Refuse columns that are not there or have no better end."""
        key = f"columns.{self.name}.mean_rank_of"
        names = self.spec.mean_rank_of or []
        yield from unknown(key, names, self.table.columns)
        columns = self.table.columns.items()
        ranked = [n for n, c in columns if c.metric is not None or c.delta_of is not None]
        remedy = f"table.{key}=[{','.join(ranked)}]."
        if not names or len(set(names)) < len(names):
            yield (
                f"`table.{key}` must name at least one column, and each once, got {names}; {remedy}"
            )
        for name in names:
            if name not in ranked:
                yield (
                    f"`table.{key}` must name columns of metric or delta_of, got {name!r}; {remedy}"
                )

    def content(self, source: Source) -> Content:
        """Return the mean ranks of the rows that are ranked in all of the columns."""
        from rotograd_cli.tables.statistics import average_ranks

        columns = [self._column(name, source) for name in self.spec.mean_rank_of or []]
        common = [row for row in source.rows if all(row in centres for _, centres in columns)]
        means = {}
        if len(common) > 1:  # there is nothing that a single row could be better than
            places = [average_ranks({row: c[row] for row in common}, way) for way, c in columns]
            means = {row: statistics.fmean(place[row] for place in places) for row in common}
        return Content("", "lower", {row: {} for row in source.rows}, means)

    def _column(self, name: str, source: Source) -> tuple["Better", Mapping[str, float]]:
        better, centres = source.ranked(name)
        if better is None and centres:
            raise ConfigError(
                f"`table.columns.{self.name}.mean_rank_of` must name columns with a better end, "
                f"got {name!r} without one; leave it out."
            )
        return better or "higher", centres

    def notes(self) -> list[str]:
        """Return how it is computed and which rows have none."""
        labels = [self.table.columns[name].label or name for name in self.spec.mean_rank_of or []]
        return [
            f"{self.label}: mean rank (1 is best) among the rows with all seeds in "
            f"{listed(labels)}.",
            Detail(
                f"{self.label}: ranks are of the statistic over seeds, single-task networks aside; "
                "ties share the mean of their places. There is one number of all seeds, so that it "
                "has no spread."
            ),
        ]


KINDS: Mapping[str, type[Kind]] = {
    "metric": Metric,
    "delta_of": Gain,
    "hours": Hours,
    "mean_rank_of": MeanRank,
}
"""By the key of a column, of which it has exactly one."""


def kind_of(name: str, table: TableSpec) -> Kind:
    """Return a column of a table as the kind that its keys say."""
    column = table.columns[name]
    if column.metric is not None and column.count_within is not None:
        return CountWithin(name, table)
    return KINDS[kind_keys(column)[0]](name, table)


def column_notes(table: TableSpec) -> list[str]:
    """Return what a reader must know of the kinds of a table's columns."""
    return [note for name in table.columns for note in kind_of(name, table).notes()]


def kind_keys(column: ColumnSpec) -> list[str]:
    """Return the keys of ``KINDS`` that a column has: one, if it is right."""
    return [key for key in KINDS if getattr(column, key) not in (None, False)]


def _is_within(value: float, bound: float) -> float:
    """1 or 0; NaN of NaN."""
    return value if math.isnan(value) else float(value <= bound)
