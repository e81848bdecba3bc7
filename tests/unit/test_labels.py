"""Elements without a label take no part in losses, metrics and counts; wrong ones show."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.methods.vanilla import VanillaMTL
from rotograd_cli.tasks import Task, losses, metrics
from rotograd_cli.training.evaluation import evaluate
from rotograd_cli.training.stepper import train_step

NUM = 12
KIND = Task("kind", 3, losses.cross_entropy, (metrics.accuracy(3),))
FLAG = Task("flag", 1, losses.binary_cross_entropy, (metrics.f1(),), batchable=True)
VALUE = Task("value", 1, losses.mean_squared_error, (metrics.mse(),), batchable=True)
TASKS = (KIND, FLAG, VALUE)
NONE = {"kind": -1, "flag": -1, "value": math.nan}
each = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prediction(task: Task) -> Tensor:
    return drawn(NUM, task.num_outputs)


def target(task: Task) -> Tensor:
    numbers = drawn(NUM, seed=1)
    return {"kind": torch.arange(NUM) % 3, "flag": (numbers > 0).long(), "value": numbers}[
        task.name
    ]


def some_without(task: Task, *, every: int = 3) -> tuple[Tensor, Tensor]:
    """A target, every so many of it without a label, and which are labelled."""
    labelled = torch.arange(NUM) % every != 0
    return torch.where(labelled, target(task), NONE[task.name]), labelled


def measured(task: Task, outputs: Tensor, targets: Tensor, size: int = 5) -> float:
    spec = task.metrics[0]
    metric = spec.create()
    for output, part in zip(outputs.split(size), targets.split(size), strict=True):
        metric.update(spec.prepare(output), part)
    return float(spec.value(metric.compute()))


@each
def test_loss_metric_and_count_are_those_of_the_labelled_examples(task: Task) -> None:
    part, labelled = some_without(task)
    outputs = prediction(task)
    expected = task.loss(outputs[labelled], part[labelled])
    spoilt = torch.where(labelled.unsqueeze(1), outputs, math.nan).requires_grad_()
    loss = task.loss(spoilt, part)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, spoilt)
    assert gradient[labelled].all()
    assert not gradient[~labelled].any()
    assert float(task.num_labelled(part)) == int(labelled.sum())
    expected_metric = measured(task, outputs[labelled], part[labelled])
    assert measured(task, outputs, part) == pytest.approx(expected_metric, rel=1e-12)


@each
def test_without_any_label_the_loss_is_0_with_zero_gradients_and_the_metric_nan(task: Task) -> None:
    part, labelled = some_without(task, every=1)
    assert not labelled.any()
    outputs = prediction(task).requires_grad_()
    loss = task.loss(outputs, part)
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert loss.detach() == 0
    assert torch.equal(gradient, torch.zeros_like(outputs))
    assert task.num_labelled(part) == 0
    assert math.isnan(measured(task, outputs.detach(), part))


@each
def test_losses_metrics_and_counts_read_nothing_from_the_device(
    task: Task, count_reads: Callable[[Callable[[], object]], int]
) -> None:
    part, labelled = some_without(task)
    outputs = prediction(task).requires_grad_()
    metric = task.metrics[0].create()
    prepared = task.metrics[0].prepare(outputs)
    assert count_reads(lambda: task.loss(outputs, part).backward()) == 0
    assert count_reads(lambda: metric.update(prepared, part)) == 0
    assert count_reads(lambda: task.num_labelled(part)) == 0
    assert count_reads(lambda: outputs[labelled]) > 0


def test_losses_of_many_tasks_at_once_are_those_of_each() -> None:
    for task in [FLAG, VALUE]:
        outputs = torch.stack([prediction(task), -prediction(task)])
        targets = torch.stack([target(task), some_without(task)[0]])
        expected = [task.loss(o, t) for o, t in zip(outputs, targets, strict=True)]
        torch.testing.assert_close(torch.vmap(task.loss)(outputs, targets), torch.stack(expected))


def test_what_is_no_label_makes_loss_and_metric_nan() -> None:
    for task, wrong in [
        (KIND, 3),
        (KIND, -2),
        (KIND, -100),
        (FLAG, 2),
        (FLAG, -2),
        (FLAG, math.nan),
    ]:
        targets = target(task).double() if math.isnan(wrong) else target(task)
        targets[5] = wrong
        assert task.loss(prediction(task), targets).isnan()
        assert math.isnan(measured(task, prediction(task), targets))


@each
@pytest.mark.parametrize("shape", [(NUM, 1), (1, NUM), (NUM, 2), (1,), ()], ids=str)
def test_a_target_is_never_broadcast(task: Task, shape: tuple[int, ...]) -> None:
    wrong = torch.zeros(shape, dtype=target(task).dtype)
    with pytest.raises(ShapeError, match=r"must have shape \[12\]"):
        task.loss(prediction(task), wrong)
    with pytest.raises(ShapeError, match=r"must have shape \[12\]"):
        task.metrics[0].create().update(task.metrics[0].prepare(prediction(task)), wrong)


def test_class_indices_are_whole_numbers_of_any_type() -> None:
    with pytest.raises(ConfigError, match=r"whole numbers .*torch.float32; write target.long()"):
        KIND.loss(prediction(KIND), target(KIND).float())
    expected = KIND.loss(prediction(KIND), target(KIND))
    for dtype in (torch.uint8, torch.int8, torch.int32):
        assert KIND.loss(prediction(KIND), target(KIND).to(dtype)) == expected


def model_and_batches(size: int) -> tuple[VanillaMTL, Sequence[Batch]]:
    """A network in float64 and batches, the last of which have few labels or none."""
    torch.manual_seed(0)
    heads = [nn.Linear(4, task.num_outputs) for task in TASKS]
    model = VanillaMTL(nn.Linear(5, 4), heads).double()
    late = torch.arange(NUM) >= NUM // 2
    targets = {
        task.name: torch.where(late, some_without(task, every=1)[0], target(task)) for task in TASKS
    }
    targets["value"][:3] = math.nan
    inputs = drawn(NUM, 5, seed=2)
    parts = torch.arange(NUM).split(size)
    return model, [Batch(inputs[i], {k: v[i] for k, v in targets.items()}) for i in parts]


def test_an_evaluation_does_not_depend_on_how_labels_fall_into_batches() -> None:
    for size in [1, 2, 4, 6]:
        expected = evaluate(*_evaluated(NUM))
        assert not any(map(math.isnan, expected.values()))
        assert evaluate(*_evaluated(size)) == pytest.approx(expected, rel=1e-12)


def _evaluated(size: int) -> tuple[Any, ...]:
    model, batches = model_and_batches(size)
    return model, TASKS, batches, "val"


def test_a_step_does_not_depend_on_how_labels_fall_into_micro_batches() -> None:
    for size in [2, 4, 6]:
        results = []
        for parts in (NUM, size):
            model, batches = model_and_batches(parts)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            values = train_step(model.train(), TASKS, batches, [optimizer])
            results.append([values, *(parameter.detach() for parameter in model.parameters())])
        for whole, split in zip(*results, strict=True):
            torch.testing.assert_close(split, whole, rtol=1e-12, atol=1e-14)
