"""Metrics over a split against scikit-learn, and the numbers that compare runs."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import Tensor

from rotograd_cli.tasks import metrics
from rotograd_cli.tasks.metrics import Better, MetricSpec, delta_m, geometric_mean, statistics

UNEVEN = (7, 7, 3)  # batch sizes


def over_batches(
    spec: MetricSpec, predictions: Tensor, targets: Tensor, sizes: Sequence[int] = UNEVEN
) -> float:
    metric = spec.create()
    for prediction, target in zip(predictions.split(sizes), targets.split(sizes), strict=True):
        metric.update(spec.prepare(prediction), target)
    return float(spec.value(metric.compute()))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_accuracy_over_uneven_batches_is_that_of_the_split() -> None:
    logits = torch.randn(17, 4, generator=generator())
    target = torch.where(torch.arange(17) < 12, logits.argmax(1), 0)  # better in early batches
    expected = sklearn.metrics.accuracy_score(target, logits.argmax(1))
    assert over_batches(metrics.accuracy(4), logits, target) == pytest.approx(expected, rel=1e-6)


def test_f1_over_uneven_batches_is_that_of_the_split() -> None:
    for dtype in [torch.float32, torch.int64]:
        logits = torch.randn(17, 1, generator=generator())
        target = (torch.rand(17, generator=generator()) < 0.4).to(dtype)
        expected = sklearn.metrics.f1_score(target, logits[:, 0] > 0)
        assert 0 < expected < 1
        assert over_batches(metrics.f1(), logits, target) == pytest.approx(expected, rel=1e-6)


def test_f1_takes_logits_between_0_and_1_for_logits() -> None:
    logits = torch.rand(17, 1, generator=generator()) / 3 + 0.01  # as probabilities all negative
    target = (torch.arange(17) % 2).float()
    expected = sklearn.metrics.f1_score(target, np.ones(17))
    assert over_batches(metrics.f1(), logits, target) == pytest.approx(expected, rel=1e-6)


def test_f1_without_positives_is_0() -> None:
    for logit in [-1.0, 1.0]:
        assert over_batches(metrics.f1(), torch.full((17, 1), logit), torch.zeros(17)) == 0


def test_mse_is_accumulated_in_float64() -> None:
    values = 1e4 + torch.rand(17, 1, generator=generator())
    target = torch.rand(17, generator=generator())
    expected = sklearn.metrics.mean_squared_error(target.double(), values.double())
    # the squares are near 1e8, where float32 is exact to 1e-7 and float64 to 1e-16
    assert over_batches(metrics.mse(), values, target) == pytest.approx(expected, rel=1e-14)


def test_mse_of_maps_covers_every_pixel_of_the_split_in_any_layout() -> None:
    for channels in [1, 2]:
        for layout in [torch.contiguous_format, torch.channels_last]:
            values, target = torch.randn(2, 17, channels, 3, 4, generator=generator())
            expected = sklearn.metrics.mean_squared_error(target.flatten(), values.flatten())
            measured = over_batches(metrics.mse(), values.to(memory_format=layout), target)
            assert measured == pytest.approx(expected, rel=1e-6)  # scikit-learn's sum is float32


def test_directions_and_units_are_declared() -> None:
    specs = (metrics.accuracy(3), metrics.f1(), metrics.mse())
    assert [spec.better for spec in specs] == ["higher", "higher", "lower"]
    assert [spec.percent for spec in specs] == [True, True, False]


# ---- statistics over tasks


def test_statistics_need_tasks_that_lead_with_the_same_metric() -> None:
    f1, mse = metrics.f1(), metrics.mse()
    assert [s.name for s in statistics([mse, mse])] == [
        "min_mse",
        "median_mse",
        "mean_mse",
        "max_mse",
        "std_mse",
    ]
    assert statistics([f1])  # a single-task network selects by the same key
    for leading in ([], [f1, mse], [f1, None], [None, None]):
        assert statistics(leading) == ()
    other = dataclasses.replace(f1, better="lower")
    assert statistics([f1, other]) == ()


def test_statistics_have_the_direction_and_unit_of_their_metric_and_the_spread_none() -> None:
    found = statistics([metrics.f1()] * 3)
    assert [s.better for s in found] == ["higher"] * 4 + [None]
    assert [s.percent for s in found] == [True] * 5


def test_statistics_are_those_of_numpy() -> None:
    for num in [2, 3, 40, 41]:
        values = torch.rand(num, generator=generator(), dtype=torch.float64)
        found = statistics([metrics.f1()] * num)
        functions = (np.min, np.median, np.mean, np.max, np.std)
        expected = [function(values.numpy()) for function in functions]
        assert [float(s.of(values)) for s in found] == pytest.approx(expected, rel=1e-12)
        values[num // 2] = math.nan
        assert all(s.of(values).isnan() for s in found)


# ---- geometric mean


def test_geometric_mean_is_the_root_of_the_product() -> None:
    losses = {"a": 0.3, "b": 7.0, "c": 1.9}
    assert geometric_mean(losses) == pytest.approx((0.3 * 7.0 * 1.9) ** (1 / 3), rel=1e-12)


def test_geometric_mean_scales_with_any_one_loss() -> None:
    base = geometric_mean({"a": 0.3, "b": 7.0})
    assert geometric_mean({"a": 0.3, "b": 9 * 7.0}) == pytest.approx(3 * base, rel=1e-12)


def test_geometric_mean_does_not_overflow() -> None:
    assert geometric_mean({str(k): 1e200 for k in range(5)}) == pytest.approx(1e200, rel=1e-12)


def test_a_task_near_zero_does_not_decide_alone() -> None:
    perfect = [geometric_mean({"a": 0.0, "b": b}) for b in (2.0, 1.0)]
    assert perfect == pytest.approx([math.sqrt(b * 2.0**-23) for b in (2.0, 1.0)], rel=1e-12)
    # b got worse: the mean must say so however small a becomes
    assert geometric_mean({"a": 1e-30, "b": 2.0}) > geometric_mean({"a": 1e-8, "b": 1.0})
    assert geometric_mean({"a": 2e-7, "b": 2.0}) == math.exp(  # above the floor: bit for bit
        float(torch.tensor([2e-7, 2.0], dtype=torch.float64).log().mean())
    )


def test_what_rounding_takes_below_zero_is_zero() -> None:
    assert geometric_mean({"a": -1e-8, "b": 2.0}) == geometric_mean({"a": 0.0, "b": 2.0})


def test_geometric_mean_of_negative_or_nan_is_nan() -> None:
    assert math.isnan(geometric_mean({"a": -1.0, "b": 2.0}))
    assert math.isnan(geometric_mean({"a": math.nan, "b": 2.0}))


# ---- delta_m

BETTER: dict[str, Better] = {"acc": "higher", "err": "lower"}


def test_delta_m_is_the_mean_gain_in_percent_and_positive_when_better() -> None:
    for values, expected in [
        ({"acc": 0.8, "err": 4.0}, 0.0),
        ({"acc": 0.9, "err": 4.0}, 6.25),  # (0.1 / 0.8) / 2
        ({"acc": 0.8, "err": 2.0}, 25.0),  # (2 / 4) / 2
        ({"acc": 0.7, "err": 5.0}, -18.75),  # (-0.125 - 0.25) / 2
        ({"err": 5.0}, -25.0),
    ]:
        assert delta_m(values, {"acc": 0.8, "err": 4.0}, BETTER) == pytest.approx(
            expected, abs=1e-9
        )


def test_delta_m_refuses_a_missing_or_zero_baseline() -> None:
    with pytest.raises(KeyError):
        delta_m({"acc": 0.8}, {"err": 4.0}, BETTER)
    with pytest.raises(ZeroDivisionError):
        delta_m({"acc": 0.8}, {"acc": 0.0}, BETTER)


def test_a_gain_over_a_negative_baseline_is_positive_when_better() -> None:
    assert delta_m({"acc": -1.0}, {"acc": -2.0}, BETTER) == 50.0
    assert delta_m({"err": -3.0}, {"err": -2.0}, BETTER) == 50.0
