"""Statistics over seeds: centre and spread, ranks, and paired comparisons of two rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imports torch
    from rotograd_cli.tasks.metrics import Better

RESAMPLES = 9999
SEED = 0
LEVEL = 0.05
"""A corrected p below it is marked; intervals cover 1 - ``LEVEL``."""
DESCRIPTIONS = {
    "median_std": "Median ± sample standard deviation",
    "mean_std": "Mean ± sample standard deviation",
    "mean_ci95": "Mean ± half the width of the 95 % confidence interval (Student's t)",
}


@dataclass(frozen=True)
class Difference:
    """Paired comparison of a row with the reference row, over the seeds that both have."""

    mean: float
    """Mean difference, row minus reference, in the column's unit."""
    low: float
    """Lower end of the bootstrap interval of the mean difference."""
    high: float
    """Upper end."""
    p: float
    """Of the sign-flip test, two-sided, not corrected."""
    num_seeds: int
    """Seeds that both rows have."""
    p_holm: float = math.nan
    """Corrected over the rows of the column."""


def summarise(values: Sequence[float], statistic: str) -> tuple[float, float | None]:
    r"""Return centre and spread of one finite value per seed; the spread of a single seed is None.

    Standard deviations are those of a sample, divided by n - 1. The spread of ``mean_ci95`` is
    :math:`t_{0.975,\,n-1}\, s / \sqrt{n}`, exact for values of a normal distribution.

    References:
        Student, "The probable error of a mean", Biometrika 6, 1908.

    Examples:
        >>> summarise([1.0, 2.0, 6.0], "median_std")
        (2.0, 2.6457513110645907)
        >>> summarise([1.5], "mean_std")
        (1.5, None)
    """
    array = np.asarray(values, dtype=np.float64)
    centre = float(np.median(array) if statistic == "median_std" else array.mean())
    if len(array) < 2:
        return centre, None
    spread = float(array.std(ddof=1))
    if statistic == "mean_ci95":
        from scipy import stats  # slow import

        spread *= float(stats.t.ppf(1 - LEVEL / 2, len(array) - 1)) / math.sqrt(len(array))
    return centre, spread


def ranks(centres: Mapping[str, float], better: "Better | None") -> dict[str, int]:
    """Return 1 for the best row and 2 for the second best; no other row is in the result.

    Equal rows share their rank, and two best rows leave no second. A single row is not ranked:
    there is nothing that it could be better than. Without a direction there are no ranks.

    Examples:
        >>> ranks({"a": 1.0, "b": 3.0, "c": 2.0}, "higher")
        {'b': 1, 'c': 2}
        >>> ranks({"a": 1.0, "b": 1.0, "c": 2.0}, "lower")
        {'a': 1, 'b': 1}
    """
    if better is None or len(centres) < 2:
        return {}
    sign = -1 if better == "higher" else 1
    position = {
        row: 1 + sum(sign * other < sign * value for other in centres.values())
        for row, value in centres.items()
    }
    return {row: place for row, place in position.items() if place <= 2}


def average_ranks(centres: Mapping[str, float], better: "Better") -> dict[str, float]:
    """Return the place of every row, 1 is best; equal rows share the mean of their places.

    Examples:
        >>> average_ranks({"a": 1.0, "b": 3.0, "c": 3.0}, "higher")
        {'a': 3.0, 'b': 1.5, 'c': 1.5}
    """
    from scipy import stats  # slow import

    sign = -1 if better == "higher" else 1
    places = stats.rankdata([sign * value for value in centres.values()])
    return dict(zip(centres, map(float, places), strict=True))


def critical_difference(num_methods: int, num_blocks: int) -> float:
    r"""Return Nemenyi's critical difference of mean ranks at ``LEVEL``.

    .. math:: CD = q_{\alpha, k} \sqrt{k (k + 1) / 6N},

    with :math:`\sqrt 2\, q` the quantile of the studentized range of k values with infinite degrees
    of freedom. Two of k methods whose mean ranks over N blocks differ by as much are told apart.

    References:
        Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006.
    """
    from scipy import stats

    q = float(stats.studentized_range.ppf(1 - LEVEL, num_methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(num_methods * (num_methods + 1) / (6 * num_blocks))


def compare(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """Compare a row with the reference row over the seeds that both have; None with fewer than two.

    Pairs share the seed, so that what a seed does to both rows (initial network, order of
    examples) cancels out. The resampling has its own seed: equal values give equal numbers.

    Args:
        values: Value of the row by seed.
        reference: Value of the reference row by seed.
    """
    seeds = sorted(set(values) & set(reference))
    if len(seeds) < 2:
        return None
    differences = np.array([values[seed] - reference[seed] for seed in seeds])
    low, high = bootstrap_interval(differences)
    p = sign_flip_p(differences)
    return Difference(float(differences.mean()), low, high, p, len(seeds))


def bootstrap_interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of values, shape ``[n]``.

    With few seeds it is too narrow (five seeds: it covers about 85 % of the time, not 95 %), as any
    bootstrap of five values; the test does not have this weakness.
    """
    n = len(differences)
    draws = np.random.default_rng(SEED).integers(n, size=(RESAMPLES, n))
    low, high = np.quantile(differences[draws].mean(axis=1), [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def sign_flip_p(differences: np.ndarray) -> float:
    """Return the two-sided p of the sign-flip permutation test of a mean of 0.

    If the two rows were the same, each pair's difference would be as likely with the other sign. Up
    to 13 pairs all :math:`2^n` sign patterns are counted, so the test is exact; it cannot go below
    :math:`2 / 2^n`: 0.0625 with five seeds, which is therefore never significant at 5 %, 0.03125
    with six, 0.002 with ten. Beyond 13 pairs, ``RESAMPLES`` random patterns stand for all.

    Args:
        differences: Paired differences, shape ``[n]``, n at least 2; p is 1 where all are 0.
    """
    from scipy import stats

    result = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        vectorized=True,
        random_state=np.random.default_rng(SEED),
    )
    return float(result.pvalue)


def smallest_p(num_seeds: int) -> float:
    """Return the smallest p that the sign-flip test can give.

    Examples:
        >>> smallest_p(5), smallest_p(20)
        (0.0625, 0.0002)
    """
    return float(min(1.0, max(2.0 ** (1 - num_seeds), 2 / (RESAMPLES + 1))))


def holm(values: Sequence[float]) -> list[float]:
    r"""Return the p-values of m tests with Holm's correction, in the same order.

    In ascending order, :math:`\tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})`. The
    chance of any false rejection stays below the level, whatever the tests' dependence.

    References:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
        Statistics 6, 1979.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    corrected = [0.0] * len(values)
    largest = 0.0
    for position, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - position) * values[index]))
        corrected[index] = largest
    return corrected
