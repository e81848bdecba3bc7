"""Statistics of tables against closed forms, scipy and brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from rotograd_cli.tables.statistics import (
    bootstrap_interval,
    compare,
    holm,
    ranks,
    sign_flip_p,
    smallest_p,
    summarise,
)

VALUES = [2.12, -1.5, 0.25, 7.0, 3.5]


def test_centre_and_spread_are_those_of_the_statistics_module() -> None:
    import statistics

    assert summarise(VALUES, "median_std") == pytest.approx((2.12, statistics.stdev(VALUES)))
    assert summarise(VALUES, "mean_std") == pytest.approx(
        (statistics.fmean(VALUES), statistics.stdev(VALUES))
    )
    assert summarise(VALUES[:4], "median_std")[0] == pytest.approx((0.25 + 2.12) / 2)


@pytest.mark.parametrize("num", [2, 3, 5, 10])
def test_confidence_interval_is_students(num: int) -> None:
    values = np.random.default_rng(0).normal(size=num)
    centre, half = summarise(values.tolist(), "mean_ci95")
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert half is not None
    assert (centre - half, centre + half) == pytest.approx((low, high))


@pytest.mark.parametrize("statistic", ["median_std", "mean_std", "mean_ci95"])
def test_a_single_seed_has_no_spread(statistic: str) -> None:
    assert summarise([1.25], statistic) == (1.25, None)


def test_ranks_follow_the_direction() -> None:
    centres = {"a": 1.0, "b": -2.0, "c": 5.0}
    assert ranks(centres, "higher") == {"c": 1, "a": 2}
    assert ranks(centres, "lower") == {"b": 1, "a": 2}
    assert ranks(centres, None) == {}
    assert ranks({"a": 1.0}, "higher") == {}
    assert ranks({}, "higher") == {}


def test_ties_share_their_rank() -> None:
    assert ranks({"a": 1.0, "b": 1.0, "c": 0.0}, "higher") == {"a": 1, "b": 1}
    assert ranks({"a": 2.0, "b": 1.0, "c": 1.0}, "higher") == {"a": 1, "b": 2, "c": 2}


@pytest.mark.parametrize("num", [2, 5, 8, 10])
def test_sign_flip_test_equals_counting_all_patterns(num: int) -> None:
    differences = np.random.default_rng(num).normal(0.4, 1.0, size=num)
    means = [
        np.mean(np.array(signs) * differences) for signs in itertools.product((1, -1), repeat=num)
    ]
    observed = differences.mean()
    upper = np.mean([mean >= observed - 1e-12 for mean in means])
    lower = np.mean([mean <= observed + 1e-12 for mean in means])
    assert sign_flip_p(differences) == pytest.approx(min(1.0, 2 * min(upper, lower)))


@pytest.mark.parametrize("num", [2, 3, 5, 6, 10, 13, 14, 20])
def test_the_smallest_p_is_reached_when_all_differences_have_one_sign(num: int) -> None:
    differences = np.arange(1.0, num + 1)
    assert sign_flip_p(differences) == pytest.approx(max(2 / 2**num, 2 / 10_000))
    assert sign_flip_p(-differences) == pytest.approx(smallest_p(num))


def test_five_seeds_cannot_be_significant_and_six_can() -> None:
    assert smallest_p(5) == 2 / 32
    assert smallest_p(5) > 0.05 > smallest_p(6)
    assert smallest_p(1) == 1.0


def test_equal_rows_have_p_1() -> None:
    assert sign_flip_p(np.zeros(5)) == 1.0


def test_many_seeds_are_tested_by_random_patterns() -> None:
    differences = np.random.default_rng(1).normal(0.5, 1.0, size=40)
    p = sign_flip_p(differences)
    assert p == sign_flip_p(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)


def test_the_test_is_valid_at_five_seeds() -> None:
    """Under the null hypothesis p <= a happens in at most a share a of cases, for every a."""
    draws = np.random.default_rng(2).normal(size=(400, 5))
    found = np.array([sign_flip_p(d) for d in draws])
    for level in (2 / 32, 4 / 32, 8 / 32):
        share = (found <= level + 1e-9).mean()
        assert share <= level + 3 * math.sqrt(level * (1 - level) / len(found))


def test_bootstrap_interval_is_scipys_percentile_interval() -> None:
    differences = np.random.default_rng(3).normal(1.0, 2.0, size=8)
    low, high = bootstrap_interval(differences)
    theirs = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=100_000,
        method="percentile",
        random_state=np.random.default_rng(5),
    ).confidence_interval
    # two Monte Carlo estimates of the same quantiles
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.06)


def test_bootstrap_interval_of_equal_differences_is_a_point() -> None:
    assert bootstrap_interval(np.full(5, 0.5)) == (0.5, 0.5)


def test_docstring_says_what_five_seeds_cover() -> None:
    """About 85 % for the bootstrap of five normal values, as its docstring says."""
    half = stats.norm.ppf(0.975) * math.sqrt(4 / 5)
    assert stats.t.cdf(half, 4) - stats.t.cdf(-half, 4) == pytest.approx(0.85, abs=0.01)
    draws = np.random.default_rng(6).normal(size=(300, 5))
    covered = [low <= 0 <= high for low, high in map(bootstrap_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.85, abs=0.07)


def test_a_comparison_pairs_seeds_and_leaves_out_those_of_one_row() -> None:
    row = {0: 1.0, 1: 5.0, 2: 3.0, 9: 100.0}
    reference = {0: 0.5, 1: 4.0, 2: 1.0, 7: -100.0}
    difference = compare(row, reference)
    assert difference is not None
    assert difference.num_seeds == 3
    assert difference.mean == pytest.approx((0.5 + 1.0 + 2.0) / 3)
    assert difference.low <= difference.mean <= difference.high
    assert difference.p == pytest.approx(0.25)
    assert compare(row, reference) == compare(dict(reversed(row.items())), reference)


def test_fewer_than_two_common_seeds_are_not_compared() -> None:
    assert compare({0: 1.0}, {0: 2.0}) is None
    assert compare({0: 1.0, 1: 2.0}, {2: 1.0, 1: 0.0}) is None


def test_holm_corrects_as_the_worked_example() -> None:
    # m = 4: 0.01 x 4, 0.013 x 3, 0.014 x 2 (below its predecessor, so raised to it), 0.19
    assert holm([0.01, 0.013, 0.014, 0.19]) == pytest.approx([0.04, 0.04, 0.04, 0.19])
    assert holm([0.19, 0.014, 0.013, 0.01]) == pytest.approx([0.19, 0.04, 0.04, 0.04])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_holm_equals_the_closed_testing_procedure_with_bonferroni() -> None:
    """Independent definition: the largest Bonferroni p of all subsets that hold the hypothesis."""
    values = np.random.default_rng(4).uniform(0, 0.4, size=6).tolist()
    expected = []
    for index in range(len(values)):
        worst = 0.0
        for size in range(1, len(values) + 1):
            for subset in itertools.combinations(range(len(values)), size):
                if index in subset:
                    worst = max(worst, min(1.0, size * min(values[i] for i in subset)))
        expected.append(worst)
    assert holm(values) == pytest.approx(expected)
