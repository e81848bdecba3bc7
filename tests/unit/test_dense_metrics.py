"""Metrics of dense tasks against scikit-learn and naive float64 loops, in both protocols."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from rotograd_cli.tasks import metrics
from rotograd_cli.tasks.dense_metrics import ConfusionMatrix, PairMeans
from rotograd_cli.tasks.element_errors import depth_errors
from rotograd_cli.tasks.metrics import MetricSpec, Protocol

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
TASKS: dict[str, Callable[[Protocol], tuple[MetricSpec, ...]]] = {
    "depth": metrics.depth,
    "normals": metrics.normals,
}
SIZES = (3, 3, 1, 2)  # of batches: odd ones, so that pairs span two of them
NUM, HEIGHT, WIDTH = sum(SIZES), 5, 4
both_protocols = pytest.mark.parametrize("protocol", PROTOCOLS)
both_tasks = pytest.mark.parametrize("task", TASKS)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def measure(
    specs: Sequence[MetricSpec], prediction: Tensor, target: Tensor, sizes: Sequence[int] = SIZES
) -> dict[str, float]:
    """Metrics of a split in batches, from the one accumulator that they share."""
    (create,) = {spec.create for spec in specs}
    (prepare,) = {spec.prepare for spec in specs}
    metric = create()
    for p, t in zip(prediction.split(sizes), target.split(sizes), strict=True):
        metric.update(prepare(p), t)
    result = metric.compute()
    return {spec.name: float(spec.value(result)) for spec in specs}


# ---- the oracle: one pixel after the other


def pixels(prediction: Tensor, target: Tensor) -> Iterator[tuple[list[float], list[float]]]:
    """Channels of prediction and target at every pixel with a target."""
    for p, t in zip(prediction.double(), target.double(), strict=True):
        for x, y in zip(p.flatten(1).T.tolist(), t.flatten(1).T.tolist(), strict=True):
            if any(y):
                yield x, y


def naive_depth(prediction: Tensor, target: Tensor) -> dict[str, float]:
    errors = [(abs(p - t), abs(p - t) / t) for (p,), (t,) in pixels(prediction, target)]
    absolute, relative = np.array(errors).T if errors else np.full((2, 1), math.nan)
    return {"abs_err": absolute.mean(), "rel_err": relative.mean()}


def naive_angle(p: list[float], t: list[float]) -> float:
    lengths = math.hypot(*p) * math.hypot(*t)
    cosine = sum(x * y for x, y in zip(p, t, strict=True)) / lengths if lengths else 0.0
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def naive_normals(prediction: Tensor, target: Tensor) -> dict[str, float]:
    angles = np.array([naive_angle(p, t) for p, t in pixels(prediction, target)] or [math.nan])
    known = not np.isnan(angles).any()
    shares = {
        f"within_{limit:g}": (angles < limit).mean() if known else math.nan
        for limit in (11.25, 22.5, 30)
    }
    return {"angle_mean": angles.mean(), "angle_median": float(np.median(angles)), **shares}


def naive(task: str, protocol: Protocol, prediction: Tensor, target: Tensor) -> dict[str, float]:
    function = {"depth": naive_depth, "normals": naive_normals}[task]
    if protocol == "exact":
        return function(prediction, target)
    pairs = zip(prediction.split(2), target.split(2), strict=True)
    values = [function(p, t) for p, t in pairs if t.any()]
    names = function(prediction, target)
    return {name: float(np.mean([v[name] for v in values or [names]])) for name in names}


# ---- cases


def unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


def drawn_split(task: str) -> tuple[Tensor, Tensor]:
    """Predictions near their targets, of which a fifth is missing."""
    missing = drawn(NUM, 1, HEIGHT, WIDTH, seed=1) < -0.84
    if task == "depth":
        target = drawn(NUM, 1, HEIGHT, WIDTH, seed=2).abs() + 0.5
        return target + drawn(NUM, 1, HEIGHT, WIDTH), torch.where(missing, 0, target)
    target = unit(drawn(NUM, 3, HEIGHT, WIDTH, seed=2))
    return 5 * (target + 0.5 * drawn(NUM, 3, HEIGHT, WIDTH)), torch.where(missing, 0, target)


def some(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return prediction, target


def all_void(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return prediction, torch.zeros_like(target)


def one_valid(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    only = torch.zeros_like(target)
    row, column = target[4].any(0).nonzero()[0]
    only[4, :, row, column] = target[4, :, row, column]
    return prediction, only


def void_pair(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return prediction, torch.where(torch.arange(NUM).view(-1, 1, 1, 1) // 2 == 1, 0, target)


def last_void(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return prediction, torch.where(torch.arange(NUM).view(-1, 1, 1, 1) == NUM - 1, 0, target)


def zero_prediction(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(drawn(NUM, 1, HEIGHT, WIDTH, seed=3) > 1, 0, prediction), target


def garbage_at_void(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    garbage = torch.tensor([math.nan, math.inf, -math.inf, 1e300]).double()
    void = (target == 0).all(1, keepdim=True)
    return torch.where(void, garbage.expand_as(prediction), prediction), target


def nan_at_valid(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    spoilt = prediction.clone()
    spoilt[3, 0] = math.nan
    return spoilt, target


CASES = (
    *(some, all_void, one_valid, void_pair, last_void),
    *(zero_prediction, garbage_at_void, nan_at_valid),
)


def close(expected: dict[str, float], rel: float = 1e-9) -> Any:
    """Equal, but a median within the bin of its histogram."""
    return {
        name: pytest.approx(value, rel=rel, abs=1e-3 if name == "angle_median" else 0, nan_ok=True)
        for name, value in expected.items()
    }


# ---- both protocols


@both_tasks
@both_protocols
@pytest.mark.parametrize("case", CASES)
def test_metrics_are_those_of_a_loop_over_the_pixels(
    task: str, protocol: Protocol, case: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> None:
    prediction, target = case(*drawn_split(task))
    expected = naive(task, protocol, prediction, target)
    assert all(map(math.isnan, expected.values())) == (case in (all_void, nan_at_valid))
    assert measure(TASKS[task](protocol), prediction, target) == close(expected)


@both_tasks
@both_protocols
def test_float32_predictions_and_half_precision_targets_are_accurate(
    task: str, protocol: Protocol
) -> None:
    prediction, target = drawn_split(task)
    target = target.half()
    if task == "normals":  # a target that is not quite of unit length is where protocols differ
        target = unit(target.float())
    measured = measure(TASKS[task](protocol), prediction.float(), target)
    expected = naive(task, protocol, prediction.float(), target)
    assert measured == close(expected, rel=1e-5)  # angles from float32 cosines


@both_tasks
@both_protocols
@pytest.mark.parametrize("sizes", [(1,) * NUM, (2, 2, 2, 2, 1), (4, 5), (5, 4), (NUM,)], ids=str)
def test_metrics_do_not_depend_on_the_evaluation_batch_size(
    task: str, protocol: Protocol, sizes: Sequence[int]
) -> None:
    specs, split = TASKS[task](protocol), drawn_split(task)
    expected = measure(specs, *split)
    # float64 sums in another order
    assert measure(specs, *split, sizes) == pytest.approx(expected, rel=1e-13)


@both_tasks
def test_protocols_differ_where_pairs_have_different_numbers_of_valid_pixels(task: str) -> None:
    split = one_valid(*drawn_split(task))[0], drawn_split(task)[1]
    split[1][:3] = one_valid(*drawn_split(task))[1][4:5]
    exact, pairs = (measure(TASKS[task](protocol), *split) for protocol in PROTOCOLS)
    assert all(exact[name] != pytest.approx(pairs[name], rel=1e-3) for name in exact)


@both_tasks
@both_protocols
def test_updates_read_nothing_from_the_device(
    task: str, protocol: Protocol, count_reads: Callable[[Callable[[], Any]], int]
) -> None:
    prediction, target = drawn_split(task)
    metric = TASKS[task](protocol)[0].create()

    def update() -> None:
        for size in (1, 2, 3):
            metric.update(prediction[:size], target[:size])

    assert count_reads(update) == 0


@both_tasks
@both_protocols
def test_memory_does_not_grow_with_the_split(task: str, protocol: Protocol) -> None:
    prediction, target = drawn_split(task)
    metric = TASKS[task](protocol)[0].create()

    def memory() -> int:
        kept = [*metric.buffers(), *getattr(metric, "waiting", [])]
        return sum(x.untyped_storage().nbytes() for x in kept)

    metric.update(prediction, target)
    before = memory()
    for _ in range(4):
        metric.update(prediction, target)
    assert memory() == before


@both_tasks
@both_protocols
def test_numbers_can_be_read_before_the_last_batch(task: str, protocol: Protocol) -> None:
    prediction, target = drawn_split(task)
    specs = TASKS[task](protocol)
    metric = specs[0].create()
    metric.update(prediction[:3], target[:3])  # an odd image waits
    metric.compute()
    metric.update(prediction[3:], target[3:])
    whole = metric.compute()
    named = {spec.name: float(spec.value(whole)) for spec in specs}
    assert named == pytest.approx(measure(specs, prediction, target), rel=1e-13)


def test_directions_and_units_of_dense_metrics_are_declared() -> None:
    specs = (*metrics.segmentation(13), *metrics.depth("exact"), *metrics.normals("mtan_batch"))
    assert [(spec.name, spec.better, spec.percent) for spec in specs] == [
        ("miou", "higher", True),
        ("pixel_accuracy", "higher", True),
        ("abs_err", "lower", False),
        ("rel_err", "lower", False),
        ("angle_mean", "lower", False),
        ("angle_median", "lower", False),
        ("within_11.25", "higher", True),
        ("within_22.5", "higher", True),
        ("within_30", "higher", True),
    ]


# ---- angles


@both_protocols
@pytest.mark.parametrize(("sign", "angle"), [(1, 0.0), (-1, 180.0)])
def test_agreement_is_0_and_opposition_180_degrees(
    protocol: Protocol, sign: int, angle: float
) -> None:
    _, target = drawn_split("normals")
    measured = measure(metrics.normals(protocol), sign * 7 * target, target)
    # the arc cosine of the other protocol turns a rounding of 1e-16 into 1e-8 radians
    assert measured["angle_mean"] == pytest.approx(
        angle, abs=1e-13 if protocol == "exact" else 2e-6
    )
    assert measured["angle_median"] == pytest.approx(angle, abs=1e-3)
    assert [measured[f"within_{limit}"] for limit in ("11.25", "22.5", "30")] == [sign > 0] * 3


def test_exact_angles_are_accurate_in_float32_near_0_and_180_degrees() -> None:
    for degrees in [1e-4, 1e-3, 1e-2, 89.999, 179.9999]:
        target = unit(drawn(1, 3, 20, 20)).float()
        across = torch.linalg.cross(target, unit(drawn(1, 3, 20, 20, seed=1)).float(), dim=1)
        angle = math.radians(degrees)
        turned = (
            math.cos(angle) * unit(target.double()) + math.sin(angle) * unit(across.double())
        ).float()
        measured = measure(metrics.normals("exact"), turned, target, (1,))
        # rounding of the inputs to 6e-8 is 3.4e-6 degrees; that of the angle at 180 is 8e-6
        assert measured["angle_mean"] == pytest.approx(degrees, abs=2e-5)


@both_protocols
@pytest.mark.parametrize("length", [1e-30, 1e-4, 1e30])
def test_lengths_of_predicted_normals_change_nothing(protocol: Protocol, length: float) -> None:
    prediction, target = (x.float() for x in drawn_split("normals"))
    specs = metrics.normals(protocol)
    expected = measure(specs, prediction, target)
    assert measure(specs, length * prediction, target) == pytest.approx(expected, rel=1e-5)


def angles_split(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions at given angles (degrees, ``[N]``) of the z axis, float32."""
    radians = angles.double().deg2rad()
    prediction = torch.stack((radians.sin(), torch.zeros_like(radians), radians.cos()))
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 1, len(angles))
    return prediction.float().view(1, 3, 1, -1), target


def spread(num: int, kind: str) -> Tensor:
    uniform = torch.rand(num, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        "uniform": 180 * uniform,
        "within one bin": 30 + 1e-3 * uniform,
        "skewed": 180 * uniform**4,
        # of an even number the middle two are far apart
        "two groups": torch.where(torch.arange(num) % 2 == 0, 10 + uniform, 150 + uniform),
    }[kind]


@pytest.mark.parametrize("kind", ["uniform", "within one bin", "skewed", "two groups"])
@pytest.mark.parametrize(
    "num", [1, 2, 3, 10, 2_000_001, pytest.param(2_000_000, marks=pytest.mark.slow)]
)
def test_exact_median_is_off_by_less_than_a_bin(num: int, kind: str) -> None:
    angles = spread(num, kind)
    measured = measure(metrics.normals("exact"), *angles_split(angles), (1,))
    expected = float(np.median(angles.numpy()))
    assert abs(measured["angle_median"] - expected) < 1e-3 + 5e-5  # a bin, and float32
    assert measured["angle_mean"] == pytest.approx(float(angles.mean()), abs=1e-5)


def test_median_of_a_pair_is_the_mean_of_the_middle_two() -> None:
    split = angles_split(torch.tensor([10.0, 20.0, 40.0, 80.0]))
    measured = measure(metrics.normals("mtan_batch"), *split, (1,))
    assert measured["angle_median"] == pytest.approx(30, rel=1e-5)


def test_shares_do_not_come_from_the_bins() -> None:
    angles = torch.tensor([11.2499, 11.2501, 22.4999, 22.5001, 29.9999, 30.0001])
    measured = measure(metrics.normals("exact"), *angles_split(angles), (1,))
    shares = [measured[f"within_{limit}"] for limit in ("11.25", "22.5", "30")]
    assert shares == pytest.approx([1 / 6, 3 / 6, 5 / 6], rel=1e-12)


def test_a_normal_with_components_that_sum_to_0_counts() -> None:
    target = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1) / math.sqrt(2)
    for protocol in PROTOCOLS:
        assert measure(metrics.normals(protocol), target, target, (1,))["within_30"] == 1


# ---- pairs


def test_an_infinite_depth_is_an_infinite_error() -> None:
    prediction, target = drawn_split("depth")
    prediction[:] = math.inf
    for protocol in PROTOCOLS:
        assert set(measure(metrics.depth(protocol), prediction, target).values()) == {math.inf}


def test_only_the_odd_image_waits() -> None:
    prediction, target = drawn_split("depth")
    metric = PairMeans(depth_errors, 2)
    for start, stop, waiting in ((0, 3, [2]), (3, 5, [4]), (5, 6, [])):
        metric.update(prediction[start:stop], target[start:stop])
        assert [x.shape[0] for x in metric.waiting] == [1, 1] * len(waiting)
        for index in waiting:
            assert torch.equal(metric.waiting[0][0], prediction[index])
            assert torch.equal(metric.waiting[1][0], target[index])


# ---- segmentation


def segmented(num_classes: int = 6, void: int = -1) -> tuple[Tensor, Tensor]:
    """Logits and labels; the last two classes are in neither, the one before in targets alone."""
    logits = drawn(NUM, num_classes, HEIGHT, WIDTH)
    logits[:, num_classes - 3 :] = -100
    labels = torch.randint(
        0, num_classes - 2, (NUM, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1)
    )
    hidden = drawn(NUM, HEIGHT, WIDTH, seed=2) > 0.5
    return logits, torch.where(hidden, void, labels)


def test_segmentation_is_that_of_scikit_learn_over_the_labelled_pixels() -> None:
    for dtype in [torch.int8, torch.int32, torch.int64]:
        for sizes in [SIZES, (NUM,), (1,) * NUM]:
            logits, labels = segmented()
            known = labels != -1
            true, predicted = labels[known], logits.argmax(1)[known]
            occurring = sorted({*true.tolist(), *predicted.tolist()})
            assert len(occurring) == 4  # of 6
            assert measure(
                metrics.segmentation(6), logits, labels.to(dtype), sizes
            ) == pytest.approx(
                {
                    "miou": sklearn.metrics.jaccard_score(true, predicted, average="macro"),
                    "pixel_accuracy": sklearn.metrics.accuracy_score(true, predicted),
                },
                rel=1e-12,
            )


def test_confusion_matrix_is_that_of_torchmetrics() -> None:
    logits, labels = segmented(13, void=255)
    ours, theirs = ConfusionMatrix(13, 255), MulticlassConfusionMatrix(13, ignore_index=255)
    ours.update(logits.argmax(1), labels.to(torch.uint8))
    theirs.update(logits, labels)
    assert torch.equal(ours.counts[:-1].view(13, 13), theirs.compute())


def test_segmentation_without_labels_is_nan() -> None:
    logits, labels = segmented()
    measured = measure(metrics.segmentation(6), logits, torch.full_like(labels, -1))
    assert all(map(math.isnan, measured.values()))


def test_one_labelled_pixel_decides() -> None:
    logits, labels = segmented()
    only = torch.full_like(labels, -1)
    only[4, 2, 3] = logits.argmax(1)[4, 2, 3]
    assert measure(metrics.segmentation(6), logits, only) == {"miou": 1, "pixel_accuracy": 1}
    only[4, 2, 3] = 5  # predicted is another: two classes occur, none of them right
    assert measure(metrics.segmentation(6), logits, only) == {"miou": 0, "pixel_accuracy": 0}


def test_label_that_is_no_class_makes_the_metrics_nan() -> None:
    logits, labels = segmented()
    measured = measure(metrics.segmentation(6), logits, torch.where(labels == -1, 255, labels))
    assert all(map(math.isnan, measured.values()))


def test_counting_reads_nothing_from_the_device(
    count_reads: Callable[[Callable[[], Any]], int],
) -> None:
    logits, labels = segmented()
    (spec, _) = metrics.segmentation(6)
    metric = spec.create()
    assert count_reads(lambda: metric.update(spec.prepare(logits), labels)) == 0
