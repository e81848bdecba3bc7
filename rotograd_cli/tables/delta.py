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
from collections.abc import Callable, Mapping, Sequence

from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey, of_split
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


def gains(
    convention: str, tasks: Sequence[str], rows: Rows, base: str | None, over: str = "mean"
) -> dict[str, dict[int, float]]:
    """Return the gain of every row and seed.

    Args:
        convention: ``paper``, ``nash``, ``famo`` or ``libmtl``.
        tasks: Tasks whose gains are joined.
        rows: Results by row and seed.
        base: Row of the single-task networks, for ``paper`` and ``famo``.
        over: What joins the gains of the tasks of a seed: a key of ``OVER``.

    Returns:
        Gains in percent by row and seed. Absent: the base row's own, those of a seed without its
        base or with one that was not measured alike, and those of runs whose first evaluation
        cannot be read. NaN: a metric is, or the base's is 0.

    Raises:
        ConfigError: If runs do not have the tasks, or with ``nash`` the metrics of NYUv2.
    """
    by_row: dict[str, dict[int, float]] = {row: {} for row in rows}
    for row, seeds in rows.items():
        bases = {} if row == base else rows.get(str(base), {})
        for seed, result in seeds.items():
            gain = _gain(convention, tasks, result, bases.get(seed), OVER[over])
            if gain is not None:
                by_row[row][seed] = gain
    return by_row


def _gain(
    convention: str,
    tasks: Sequence[str],
    result: SeedResult,
    baseline: SeedResult | None,
    over: Join,
) -> float | None:
    if convention == "nash":
        return _nash(result)
    if convention == "libmtl":
        return _libmtl(tasks, result, over)
    if baseline is None or not alike([result.conditions, baseline.conditions], COMPARED):
        return None
    gain = _over_tasks(tasks, result.metrics, baseline.metrics, _directions(result), over)
    return -gain if convention == "famo" else gain


def _directions(result: SeedResult) -> Directions:
    """Direction of every metric of a task."""
    specs = metric_specs(result.runs)
    return {key: s.better for key, s in specs.items() if key.task is not None and s.better}


def _nash(result: SeedResult) -> float:
    base = {MetricKey.parse(key): value for key, value in NASH_BASE.items()}
    absent = [str(key) for key in base if key not in result.metrics]
    if absent:
        raise ConfigError(
            f"`table.delta` nash needs the nine metrics of NYUv2, got runs without {absent[0]}; "
            "choose paper or libmtl."
        )
    return -_relative({key: result.metrics[key] for key in base}, base, _directions(result))


def _libmtl(tasks: Sequence[str], result: SeedResult, over: Join) -> float | None:
    first: dict[MetricKey, float] = {}
    selected: dict[MetricKey, float] = {}
    for run in result.runs:
        if run.first_evaluation is None:
            return None
        first |= of_split(run.first_evaluation, "val")
        selected |= run.metrics("val")
    return _over_tasks(tasks, selected, first, _directions(result), over)


def _over_tasks(
    tasks: Sequence[str], values: Values, baseline: Values, better: Directions, over: Join
) -> float:
    result = []
    for task in tasks:
        of_task = {key: values[key] for key in better if key.task == task and key in values}
        if not of_task or not set(of_task) <= set(baseline):
            raise ConfigError(
                f"`delta_of` must name tasks whose metrics both rows have, got {task!r}; the runs "
                f"have {', '.join(dict.fromkeys(str(key.task) for key in better))}."
            )
        result.append(_relative(of_task, baseline, better))
    # neither a maximum nor a median has a place for NaN
    return math.nan if any(map(math.isnan, result)) else over(result)


def _relative(values: Values, baseline: Values, better: Directions) -> float:
    has_zero = any(baseline[key] == 0 for key in values)
    return math.nan if has_zero else delta_m(values, baseline, better)
