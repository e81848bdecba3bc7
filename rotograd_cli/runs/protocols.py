"""Protocols of metrics: numbers of different ones never share a column, nor a panel of a figure.

A protocol has two parts: which epochs a test metric is of, and how the metric averages over a split
(``MetricDisplay.protocol``), where there are several ways.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.runs.summary import UNRECORDED, MetricDisplay, RunSummary

WITHOUT_CHOICE = ("miou", "pixel_accuracy")
"""Metrics that average in one way alone, of a data set that offers several."""


def in_words(epochs: Iterable[str], ways: Iterable[str | None]) -> str:
    """Return a protocol as tables name it; equal ones in equal words, however they are ordered.

    Args:
        epochs: Epochs of the test metrics of some runs (``RunSummary.tested_epochs``).
        ways: How their metrics average; None of those that do in one way alone.

    Examples:
        >>> in_words(["last 10 epochs"], ["mtan_batch", None]), in_words(["selected epoch"], [])
        ('last 10 epochs, mtan_batch', 'selected epoch')
    """
    return ", ".join([*sorted(set(epochs)), *sorted({way for way in ways if way is not None})])


def protocol_of(summaries: Sequence[RunSummary], metrics: Iterable[str]) -> str:
    """Return the protocol of a number that is made of test metrics of some runs, in words."""
    displays = [summary.displays for summary in summaries]
    ways = [each[key].protocol for key in metrics for each in displays if key in each]
    return in_words((summary.tested_epochs for summary in summaries), ways)


def suffixes(protocols: Iterable[str]) -> dict[str, str]:
    """Return what the name of a column adds for each protocol; nothing where there is only one.

    Examples:
        >>> suffixes(["exact", "mtan_batch", "exact"]), suffixes(["exact"])
        ({'exact': ' (exact)', 'mtan_batch': ' (mtan_batch)'}, {'exact': ''})
    """
    distinct = list(dict.fromkeys(protocols))
    is_named = len(distinct) > 1
    return {each: f" ({each})" if is_named and each else "" for each in distinct}


def completed(
    summaries: Sequence[RunSummary], of_data: Sequence[str | None] | None = None
) -> list[RunSummary]:
    """Return summaries with the protocols that earlier versions did not record.

    A metric takes what the other runs record of it. Where several are recorded, and where none is
    of a metric that offers a choice, it takes that of the run's data set.

    Args:
        summaries: Summaries of runs on one data set.
        of_data: Protocol that each run's data set was set to; None where it has no such setting.
    """
    recorded: dict[str, set[str | None]] = defaultdict(set)
    for summary in summaries:
        for key, display in summary.displays.items():
            recorded[key] |= {display.protocol} - {UNRECORDED}
    protocols = of_data or [None] * len(summaries)
    return [
        dataclasses.replace(
            summary,
            metric_specs=_filled(summary.metric_specs, recorded, data),
            statistic_specs=_filled(summary.statistic_specs, recorded, data),
        )
        for summary, data in zip(summaries, protocols, strict=True)
    ]


def _filled(
    displays: Mapping[str, MetricDisplay],
    recorded: Mapping[str, Collection[str | None]],
    of_data: str | None,
) -> dict[str, MetricDisplay]:
    filled = dict(displays)
    for key, display in displays.items():
        if display.protocol == UNRECORDED:
            protocol = _inferred(key, recorded[key], of_data)
            filled[key] = dataclasses.replace(display, protocol=protocol)
    return filled


def _inferred(metric: str, recorded: Collection[str | None], of_data: str | None) -> str | None:
    """Return the protocol of a metric whose version did not record it."""
    if not recorded:
        return None if MetricKey.parse(metric).name in WITHOUT_CHOICE else of_data
    if of_data is not None and any(recorded):
        return of_data
    return next(iter(recorded)) if len(recorded) == 1 else UNRECORDED
