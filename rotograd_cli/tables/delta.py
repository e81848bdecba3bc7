r"""Relative gains Δ in the three published conventions; they differ in sign, weights and base.

``paper`` (Javaloy and Valera, ICLR 2022): per task the mean gain over its metrics, then the mean
over tasks; positive is better; the base are our own single-task networks. The paper does not say
how seeds of the two are paired: here seed s of a row is compared with the single-task networks of
seed s, and the statistic is taken of these gains. A seed without its base, or with one that was
measured on other data or by another protocol, has no gain.

``nash`` (Nash-MTL, FAMO, FairGrad and others): mean over the nine metrics of NYUv2, all with the
same weight; negative is better; the base are constants. They were measured by the protocol
``mtan_batch``.

``famo`` (FAMO, FairGrad and others on CelebA): that of the paper with the opposite sign, for tasks
of one metric each; negative is better; the base is our own single-task networks.

``libmtl`` (Lin and Zhang, JMLR 2023): per task, positive is better; the base is the first evaluated
epoch of the same run. Both are taken on validation, as the test split is measured only once.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey, of_split
from rotograd_cli.runs.terminal import metric_name
from rotograd_cli.tables.omissions import NO_BASE, NO_FIRST, NOT_FINITE, UNLIKE, ZERO_BASE
from rotograd_cli.tables.parts import Omission
from rotograd_cli.tables.results import Rows, SeedResult, metric_specs
from rotograd_cli.tables.runs import COMPARED, alike
from rotograd_cli.tasks.metrics import Better, delta_m

Values = Mapping[MetricKey, float]
Directions = Mapping[MetricKey, Better]
Join = Callable[[Sequence[float]], float]
"""From the gains of the tasks to one number."""

NASH_BASE = {
    "segmentation/miou": 0.3830,
    "segmentation/pixel_accuracy": 0.6376,
    "depth/abs_err": 0.6754,
    "depth/rel_err": 0.2780,
    "normals/angle_mean": 25.01,
    "normals/angle_median": 19.21,
    "normals/within_11.25": 0.3014,
    "normals/within_22.5": 0.5720,
    "normals/within_30": 0.6915,
}
"""Single-task SegNets as the Nash-MTL lineage prints them; shares in [0, 1]."""
NASH_PROTOCOL = "last 10 epochs, mtan_batch"
"""Protocol by which these constants were measured."""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


OVER: Mapping[str, Join] = {"mean": _mean, "median": statistics.median, "max": max}
"""By ``ColumnSpec.over``; the paper's avg, med and max. The median of an even number of tasks is
the mean of the middle two."""
BETTER: dict[str, Better] = {
    "paper": "higher",
    "nash": "lower",
    "famo": "lower",
    "libmtl": "higher",
}
DESCRIPTIONS = {
    "paper": "Δ (the paper's convention): gain over the row {base} of the same seed in %, mean "
    "over a task's metrics, then over tasks; positive is better.",
    "nash": "Δ (Nash-MTL's convention): mean change of the nine metrics of NYUv2 in %, against "
    "that lineage's constants (protocol mtan_batch); negative is better.",
    "famo": "Δ (FAMO's convention): drop below the row {base} of the same seed in %, mean over "
    "tasks; negative is better.",
    "libmtl": "Δ (LibMTL's convention): gain over the first evaluated epoch of the same run in %, "
    "mean over a task's metrics, at the selected epoch on validation; positive is better.",
}


@dataclass(frozen=True)
class Gains:
    """Gains of rows, and why others have none."""

    values: dict[str, dict[int, float]]
    """In percent by row and seed."""
    omitted: dict[str, list[Omission]]
    """By row; several of a seed where several numbers are at fault."""


def gains(
    convention: str, tasks: Sequence[str], rows: Rows, base: str | None, over: str = "mean"
) -> Gains:
    """Return the gain of every row and seed.

    Args:
        convention: ``paper``, ``nash``, ``famo`` or ``libmtl``.
        tasks: Tasks whose gains are joined.
        rows: Results by row and seed.
        base: Row of the single-task networks, for ``paper`` and ``famo``.
        over: What joins the gains of the tasks of a seed: a key of ``OVER``.

    Returns:
        Gains by row and seed. Absent: the base row's own, those of a seed without its base or with
        one that was not measured alike, and those of runs whose first evaluation cannot be read.
        NaN: a metric is, or the base's is 0. All but the base row's own are among the omissions.

    Raises:
        ConfigError: If runs do not have the tasks, or with ``nash`` the metrics of NYUv2.
    """
    found = Gains({row: {} for row in rows}, {row: [] for row in rows})
    has_base_row = convention in ("paper", "famo")
    for row, seeds in rows.items():
        if has_base_row and row == base:
            continue
        base_row = str(base) if has_base_row else row
        bases = rows.get(base_row, {})
        for seed, result in seeds.items():
            gain, faults = _gain(convention, tasks, result, bases.get(seed), OVER[over])
            if gain is not None:
                found.values[row][seed] = gain
            for fault in faults:
                cause = base_row if fault.of_base else row
                found.omitted[row].append(Omission(fault.reason, cause, fault.what, seed))
    return found


class _Fault(NamedTuple):
    """Why there is no gain."""

    reason: str
    of_base: bool = False
    what: str = ""


def _gain(
    convention: str,
    tasks: Sequence[str],
    result: SeedResult,
    baseline: SeedResult | None,
    over: Join,
) -> tuple[float | None, Sequence[_Fault]]:
    """Return a gain and what is at fault; None where nothing can be compared."""
    compared = _compared(convention, result, baseline)
    if isinstance(compared, _Fault):
        return None, [compared]
    values, bases = compared
    better = _directions(result)
    groups = [list(bases)] if convention == "nash" else _by_task(tasks, values, bases, better)
    faults = [fault for keys in groups for key in keys for fault in _faults(key, values, bases)]
    # neither a maximum nor a median has a place for NaN
    if faults:
        return math.nan, faults
    gain = over([delta_m({key: values[key] for key in keys}, bases, better) for keys in groups])
    return (gain if BETTER[convention] == "higher" else -gain), []


def _compared(
    convention: str, result: SeedResult, baseline: SeedResult | None
) -> tuple[Values, Values] | _Fault:
    """The metrics of a result and those that they are compared with."""
    if convention == "nash":
        return result.metrics, _nash_base(result)
    if convention == "libmtl":
        return _selected_and_first(result)
    if baseline is None:
        return _Fault(NO_BASE, of_base=True)
    if not alike([result.conditions, baseline.conditions], COMPARED):
        return _Fault(UNLIKE)
    return result.metrics, baseline.metrics


def _nash_base(result: SeedResult) -> Values:
    base = {MetricKey.parse(key): value for key, value in NASH_BASE.items()}
    absent = [str(key) for key in base if key not in result.metrics]
    if absent:
        raise ConfigError(
            f"`table.delta` nash needs the nine metrics of NYUv2, got runs without {absent[0]}; "
            "choose paper or libmtl."
        )
    return base


def _selected_and_first(result: SeedResult) -> tuple[Values, Values] | _Fault:
    first: dict[MetricKey, float] = {}
    selected: dict[MetricKey, float] = {}
    for run in result.runs:
        if run.first_evaluation is None:
            return _Fault(NO_FIRST)
        first |= of_split(run.first_evaluation, "val")
        selected |= run.metrics("val")
    return selected, first


def _directions(result: SeedResult) -> Directions:
    """Direction of every metric of a task."""
    specs = metric_specs(result.runs)
    return {key: s.better for key, s in specs.items() if key.task is not None and s.better}


def _by_task(
    tasks: Sequence[str], values: Values, bases: Values, better: Directions
) -> list[list[MetricKey]]:
    """The metrics of each task."""
    groups = []
    for task in tasks:
        keys = [key for key in better if key.task == task and key in values]
        if not keys or not set(keys) <= set(bases):
            raise ConfigError(
                f"`delta_of` must name tasks whose metrics both rows have, got {task!r}; the runs "
                f"have {', '.join(dict.fromkeys(str(key.task) for key in better))}."
            )
        groups.append(keys)
    return groups


def _faults(key: MetricKey, values: Values, bases: Values) -> Iterator[_Fault]:
    """What keeps a metric from having a gain."""
    name = metric_name(str(key))
    if bases[key] == 0:
        yield _Fault(ZERO_BASE, of_base=True, what=name)
    if not math.isfinite(bases[key]):
        yield _Fault(NOT_FINITE, of_base=True, what=name)
    if not math.isfinite(values[key]):
        yield _Fault(NOT_FINITE, what=name)
