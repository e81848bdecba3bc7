"""Loss scales, micro-batches and duplicated examples: defects 8, 10 and 11."""

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli import methods
from rotograd_cli.linalg.rotations import haar_rotations
from tests.equivalence.defects.models import (
    BURN_IN,
    NUM_INPUTS,
    NUM_TASKS,
    SIZE,
    assert_same,
    batch,
    build,
    every_method,
    every_rotating_method,
    gradients,
    pass_once,
    reference,
    task_losses,
)

# ---- 8: mixed precision


def scales_every_gradient(package: ModuleType, method: str, **options: Any) -> None:
    factor = 2.0**10  # a power of two, so that equality is exact
    x = batch()
    found = []
    for scale in (None, factor):
        model = build(package, method, **options)
        for module in (model, model.backbone, *model.heads):
            module.double()
        losses = task_losses(model(x), x)
        regulariser = 0.1 * model.rep.square().mean()
        if scale is not None:
            losses, regulariser = [loss * scale for loss in losses], regulariser * scale
        keywords = {} if package is reference else {"loss_scale": scale}
        model.backward(losses, backbone_loss=regulariser, **keywords)
        found.append([p.grad for p in (*model.model_parameters(), *model.mtl_parameters())])
    assert all(torch.equal(factor * p, q) for p, q in zip(*found, strict=True))


@every_method
@pytest.mark.parametrize("normalize", [True, False])
def test_loss_scale_scales_every_gradient_exactly(method: str, normalize: bool) -> None:
    options = {} if method == "VanillaMTL" else {"normalize_losses": normalize}
    scales_every_gradient(methods, method, **options)


@every_rotating_method
def test_the_reference_scales_rotation_gradients_twice(method: str) -> None:
    with pytest.raises(AssertionError):
        scales_every_gradient(reference, method)


def trains_under_autocast(package: ModuleType, method: str) -> Any:
    model, x = build(package, method), batch().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = model(x)
    model.backward(task_losses([p.float() for p in predictions], x))
    return model


@every_method
def test_backward_works_outside_autocast(method: str) -> None:
    model = trains_under_autocast(methods, method)
    plain = build(methods, method)
    pass_once(plain, batch().float())
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        # bfloat16 has 8 bits; a handful of products of sums lose three or four of them
        assert (p.grad - q.grad).norm() < 0.1 * q.grad.norm() + 1e-3
    if method != "VanillaMTL":
        with pytest.raises(RuntimeError):
            trains_under_autocast(reference, method)


def test_rotations_keep_their_precision_under_autocast() -> None:
    model = trains_under_autocast(methods, "RotoGrad")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [model.rotations.whole().R, model.rotation.detach()]
    for R in found:
        assert R.dtype == torch.float32
        assert (R.mT @ R - torch.eye(SIZE)).abs().max() < 1e-5  # bfloat16 leaves 1e-2


# ---- 10: gradient accumulation


def test_the_burn_in_counts_optimiser_steps() -> None:
    model = build(methods, "RotoGrad", normalize_losses=True).double()
    for num_steps in range(1, 5):
        for accumulating in (True, False):
            pass_once(model, batch(), accumulating=accumulating)
        for values in (model.initial_losses, model.rule.initial_norms):
            assert values.num_steps.tolist() == [num_steps] * NUM_TASKS
    theirs = build(reference, "RotoGrad")
    for _ in range(2):
        pass_once(theirs, batch().float())
    assert theirs.iteration_counter == theirs.counter == 2  # one step of two micro-batches


@every_rotating_method
def test_start_values_are_means_over_the_micro_batches_of_a_step(method: str) -> None:
    model = build(methods, method, normalize_losses=True).double()
    for num_steps in range(BURN_IN + 2):
        halves = batch(num_steps).chunk(2)
        first = pass_once(model, halves[0], accumulating=True)
        second = pass_once(model, halves[1])
        means = torch.stack([(a + b).detach() / 2 for a, b in zip(first, second, strict=True)])
        if num_steps in (0, BURN_IN):
            recorded = means
        torch.testing.assert_close(model.initial_losses.values, recorded)


def test_two_half_batches_with_half_the_loss_are_one_batch() -> None:
    whole, halved = (build(methods, "VanillaMTL").double() for _ in range(2))
    pass_once(whole, batch())
    for half, accumulating in zip(batch().chunk(2), (True, False), strict=True):
        losses = [loss / 2 for loss in task_losses(halved(half), half)]
        halved.backward(losses, accumulating=accumulating)
    assert_same(gradients(halved), gradients(whole))


@every_rotating_method
def test_accumulating_normalised_losses_gives_the_gradient_of_the_whole_batch(method: str) -> None:
    """Two equal halves, so that start values, directions and ratios are the batch's own."""
    half = batch().chunk(2)[0]
    whole, halved = (build(methods, method, normalize_losses=True).double() for _ in range(2))
    for model in (whole, halved):
        generator = torch.Generator().manual_seed(1)
        model.rotation = haar_rotations(NUM_TASKS, SIZE, generator=generator)
    for _ in range(2):  # in the second step the start values are those of the first
        whole.zero_grad()
        halved.zero_grad()
        pass_once(whole, torch.cat((half, half)))
        for accumulating in (True, False):
            losses = [loss / 2 for loss in task_losses(halved(half), half)]
            halved.backward(losses, num_micro_batches=2, accumulating=accumulating)
    torch.testing.assert_close(halved.initial_losses.values, whole.initial_losses.values)
    pairs = zip(halved.model_parameters(), whole.model_parameters(), strict=True)
    for ours, batchs in pairs:
        torch.testing.assert_close(ours.grad, batchs.grad)


@pytest.mark.parametrize("rotation_reduction", ["reference", "per_example"])
@pytest.mark.parametrize("feature_shape", [(SIZE,), (SIZE, 2), (2, SIZE)])  # vector, map, sequence
def test_accumulation_keeps_the_rotations_gradient(
    rotation_reduction: str, feature_shape: tuple[int, ...]
) -> None:
    half = batch().chunk(2)[0]
    found = []
    for inputs in ([torch.cat((half, half))], [half, half]):
        torch.manual_seed(0)
        backbone = nn.Sequential(
            nn.Linear(NUM_INPUTS, math.prod(feature_shape)), nn.Unflatten(1, feature_shape)
        )
        heads = [
            nn.Sequential(nn.Flatten(), nn.Linear(math.prod(feature_shape), 2)) for _ in range(2)
        ]
        post_shape = feature_shape[1:] if feature_shape[0] == SIZE else ()
        model = methods.RotateOnly(
            backbone, heads, SIZE, post_shape=post_shape, rotation_reduction=rotation_reduction
        ).double()
        num = len(inputs)
        for index, x in enumerate(inputs):
            losses = [loss / num for loss in task_losses(model(x), x)]
            model.backward(losses, num_micro_batches=num, accumulating=index < num - 1)
        found.append(model.rotations.free_parameters.grad)
    torch.testing.assert_close(found[1], found[0])


# ---- 11: duplicated examples


def rotation_gradients(model: Any) -> Tensor:
    return torch.stack([p.grad.tril(-1) for p in model.mtl_parameters() if p.dim() > 1])


def ignores_duplicates(package: ModuleType, **options: Any) -> None:
    found = []
    for x in (batch().float(), batch().float().repeat(2, 1)):
        model = build(package, "RotateOnly", **options)
        pass_once(model, x)
        found.append(rotation_gradients(model))
    torch.testing.assert_close(*found)


def test_duplicating_the_batch_leaves_the_per_example_rotation_step() -> None:
    ignores_duplicates(methods, rotation_reduction="per_example")
    for package in (methods, reference):  # the default keeps the authors' arithmetic
        with pytest.raises(AssertionError):
            ignores_duplicates(package)
