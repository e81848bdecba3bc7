"""Task losses against their formulas, written out example by example."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from rotograd_cli.tasks import Task, losses


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_cross_entropy_is_the_mean_negative_log_likelihood() -> None:
    for num in [1, 5]:
        logits, target = drawn(num, 4), torch.arange(num) % 4
        terms = [
            math.log(sum(math.exp(x) for x in row)) - row[k]
            for row, k in zip(logits.tolist(), target.tolist(), strict=True)
        ]
        loss = losses.cross_entropy(logits, target)
        assert float(loss) == pytest.approx(sum(terms) / num, rel=1e-12)


def test_binary_cross_entropy_is_the_mean_negative_log_likelihood() -> None:
    for num in [1, 5]:
        for dtype in [torch.float32, torch.int64, torch.bool]:
            logits, target = drawn(num, 1), (torch.arange(num) % 2).to(dtype)
            terms = [
                math.log1p(math.exp(-x if y else x))
                for (x,), y in zip(logits.tolist(), target.tolist(), strict=True)
            ]
            loss = losses.binary_cross_entropy(logits, target)
            assert float(loss) == pytest.approx(sum(terms) / num, rel=1e-12)


def test_mean_squared_error_pairs_each_prediction_with_its_target() -> None:
    for num in [1, 5]:
        values, target = drawn(num, 1), drawn(num, seed=1)
        terms = [(x - y) ** 2 for (x,), y in zip(values.tolist(), target.tolist(), strict=True)]
        loss = losses.mean_squared_error(values, target)
        assert float(loss) == pytest.approx(sum(terms) / num, rel=1e-12)


def test_mean_squared_error_of_maps_is_the_mean_over_every_pixel() -> None:
    for channels in [1, 2]:
        # one channel is the case that squeezing would broadcast to [N, N, H, W]
        values, target = drawn(3, channels, 2, 5), drawn(3, channels, 2, 5, seed=1)
        pairs = zip(values.flatten().tolist(), target.flatten().tolist(), strict=True)
        expected = sum((x - y) ** 2 for x, y in pairs) / values.numel()
        loss = losses.mean_squared_error(values, target)
        assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_large_logits_neither_overflow_nor_change_the_dtype() -> None:
    for loss in [losses.binary_cross_entropy, losses.mean_squared_error]:
        value = loss(torch.full((2, 1), 1e4), torch.tensor([0, 1]))
        assert value.dtype == torch.float32
        assert value.shape == ()
        assert value.isfinite()


# ---- dense tasks: naive loops over pixels, gradients, pixels without a target


def dense_pairs(*, empty: bool = False) -> dict[str, tuple[Tensor, Tensor]]:
    """Prediction and target by loss, float64; half of the pixels have a target, or none."""
    drawn_mask = drawn(2, 1, 3, 4, seed=5) > 0
    mask = torch.zeros_like(drawn_mask) if empty else drawn_mask
    labels = torch.where(mask[:, 0], torch.arange(24).view(2, 3, 4) % 5, -1)
    normals = torch.nn.functional.normalize(drawn(2, 3, 3, 4, seed=6), dim=1)
    return {
        "segmentation_cross_entropy": (drawn(2, 5, 3, 4), labels),
        "depth_l1": (drawn(2, 1, 3, 4), torch.where(mask, drawn(2, 1, 3, 4, seed=6).abs(), 0)),
        "normal_cosine": (drawn(2, 3, 3, 4), torch.where(mask, normals, 0)),
    }


def pixels(prediction: Tensor, target: Tensor) -> Iterator[tuple[list[float], list[float]]]:
    """Channels of prediction and target, pixel by pixel."""
    for p, t in zip(prediction, target.view(len(target), -1, *target.shape[-2:]), strict=True):
        yield from zip(p.flatten(1).T.tolist(), t.flatten(1).T.tolist(), strict=True)


def naive_terms(name: str, prediction: Tensor, target: Tensor) -> list[float]:
    pairs = list(pixels(prediction, target))
    if name == "segmentation_cross_entropy":
        return [math.log(sum(map(math.exp, p))) - p[int(t[0])] for p, t in pairs if t[0] != -1]
    if name == "depth_l1":
        return [abs(p[0] - t[0]) for p, t in pairs if t[0] != 0]
    return [
        1 - sum(x * y for x, y in zip(p, t, strict=True)) / math.hypot(*p)
        for p, t in pairs
        if t != [0, 0, 0]
    ]


dense = pytest.mark.parametrize("name", ["segmentation_cross_entropy", "depth_l1", "normal_cosine"])


def count(name: str, target: Tensor, **options: int) -> Tensor:
    """Number of elements that a loss averages over, as a task has it."""
    loss = partial(getattr(losses, name), **options)
    return Task("any", 1, loss, ()).num_labelled(target)


def invalid(target: Tensor) -> Tensor:
    """Pixels without a target, shape ``[N, 1, H, W]``."""
    if target.dim() == 3:
        return (target == -1).unsqueeze(1)
    return (target == 0).all(1, keepdim=True)


@dense
def test_dense_loss_is_the_mean_over_the_pixels_with_a_target(name: str) -> None:
    prediction, target = dense_pairs()[name]
    terms = naive_terms(name, prediction, target)
    assert 0 < len(terms) < 24
    loss = getattr(losses, name)(prediction, target)
    assert float(loss) == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    num = count(name, target)
    assert num.dtype == torch.float64
    assert num.shape == ()
    assert float(num) == len(terms)


@dense
def test_gradient_of_a_dense_loss_is_that_of_finite_differences(name: str) -> None:
    prediction, target = dense_pairs()[name]
    loss = getattr(losses, name)
    assert torch.autograd.gradcheck(lambda p: loss(p, target), prediction.requires_grad_())


@dense
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e38, 0.0])
def test_predictions_without_a_target_reach_neither_the_loss_nor_its_gradient(
    name: str, garbage: float
) -> None:
    loss = getattr(losses, name)
    prediction, target = (x.float() if x.is_floating_point() else x for x in dense_pairs()[name])
    expected = loss(prediction, target)
    spoilt = torch.where(invalid(target), garbage, prediction).requires_grad_()
    measured = loss(spoilt, target)
    assert torch.equal(measured, expected)
    (gradient,) = torch.autograd.grad(measured, spoilt)
    assert gradient.isfinite().all()
    assert (torch.where(invalid(target), gradient, 0) == 0).all()
    assert gradient.any()


@dense
@pytest.mark.parametrize("garbage", [1.0, math.nan])
def test_without_any_target_a_dense_loss_is_0_and_so_is_its_gradient(
    name: str, garbage: float
) -> None:
    prediction, target = dense_pairs(empty=True)[name]
    leaf = torch.full_like(prediction, garbage).requires_grad_()
    loss = getattr(losses, name)(leaf, target)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert loss.detach() == 0
    assert torch.equal(gradient, torch.zeros_like(leaf))
    assert float(count(name, target)) == 0


@dense
def test_nan_in_a_prediction_with_a_target_is_not_hidden(name: str) -> None:
    prediction, target = dense_pairs()[name]
    assert getattr(losses, name)(torch.full_like(prediction, math.nan), target).isnan()


@dense
def test_dense_losses_and_counts_read_nothing_from_the_device(
    name: str, count_reads: Callable[[Callable[[], object]], int]
) -> None:
    prediction, target = dense_pairs()[name]
    prediction.requires_grad_()
    assert count_reads(lambda: getattr(losses, name)(prediction, target).backward()) == 0
    assert count_reads(lambda: count(name, target)) == 0
    assert count_reads(lambda: prediction[invalid(target).expand_as(prediction)]) > 0  # would


def test_labels_of_any_integer_type_give_the_same_loss() -> None:
    for dtype in [torch.int8, torch.int32, torch.int64]:
        prediction, target = dense_pairs()["segmentation_cross_entropy"]
        expected = losses.segmentation_cross_entropy(prediction, target)
        assert losses.segmentation_cross_entropy(prediction, target.to(dtype)) == expected


def test_void_may_be_any_label() -> None:
    prediction, target = dense_pairs()["segmentation_cross_entropy"]
    other = torch.where(target == -1, 255, target).to(torch.uint8)
    expected = losses.segmentation_cross_entropy(prediction, target)
    assert losses.segmentation_cross_entropy(prediction, other, void=255) == expected
    name = "segmentation_cross_entropy"
    assert count(name, other, void=255) == count(name, target)


def test_half_precision_targets_are_read_in_the_precision_of_the_prediction() -> None:
    for name in ["depth_l1", "normal_cosine"]:
        prediction, target = dense_pairs()[name]
        half = target.half()
        loss = getattr(losses, name)(prediction.float(), half)
        assert loss.dtype == torch.float32
        expected = getattr(losses, name)(prediction, half.double())
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)  # float32


def test_zero_vector_as_a_predicted_normal_has_cosine_0_and_a_bounded_gradient() -> None:
    prediction = torch.zeros(1, 3, 1, 1, requires_grad=True)
    loss = losses.normal_cosine(prediction, torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1))
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert loss.detach() == 1
    assert gradient.flatten().tolist() == pytest.approx([0, 0, -1e6])  # 1 / eps


def test_equal_normals_cost_0_and_opposite_ones_2_whatever_the_length() -> None:
    for sign, expected in [(1, 0.0), (-1, 2.0)]:
        _, target = dense_pairs()["normal_cosine"]
        lengths = torch.logspace(-4, 6, 24, dtype=torch.float64).view(2, 1, 3, 4)
        loss = losses.normal_cosine(sign * lengths * target, target)
        assert float(loss) == pytest.approx(expected, abs=1e-12)
