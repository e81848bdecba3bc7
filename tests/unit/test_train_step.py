"""One optimiser step and one evaluation, against autograd and a naive computation."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import Tensor, nn
from torchmetrics import MeanSquaredError

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.engine.passes import ExtraOutputs
from rotograd_cli.methods.vanilla import VanillaMTL
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.tasks import Task, dense_metrics
from rotograd_cli.tasks.losses import (
    binary_cross_entropy,
    mean_squared_error,
    segmentation_cross_entropy,
)
from rotograd_cli.tasks.metrics import MetricSpec, f1, mse, segmentation
from rotograd_cli.training.batch_checks import check_predictions
from rotograd_cli.training.evaluation import evaluate, unlabelled_notes
from rotograd_cli.training.objective import Objective, _num_labelled
from rotograd_cli.training.selection import directions_of
from rotograd_cli.training.stepper import train_step
from tests.toy import METHODS, NUM_INPUTS, TASKS, ToyDataset, toy_model

LR = 0.1


def evaluation_keys(tasks: Sequence[Task], split: str) -> list[str]:
    """Keys that can be selected by; the loop adds ``relative_loss``."""
    return [f"{split}/{key}" for key in directions_of(tasks) if key != "relative_loss"]


def toy_batch(dtype: torch.dtype = torch.float64, without: Sequence[str] = ()) -> Batch:
    dataset = ToyDataset((12, 1, 1), dtype)
    batch = dataset.batch("train", torch.arange(12))
    return Batch(batch.inputs, {k: v for k, v in batch.targets.items() if k not in without})


def parts(batch: Batch, num: int) -> list[Batch]:
    size = len(batch.inputs) // num
    return [
        Batch(batch.inputs[i : i + size], {k: v[i : i + size] for k, v in batch.targets.items()})
        for i in range(0, len(batch.inputs), size)
    ]


def sgd(model: MultiTaskMethod) -> list[torch.optim.Optimizer]:
    groups = (list(model.model_parameters()), list(model.mtl_parameters()))
    return [torch.optim.SGD(group, lr=LR) for group in groups if group]


def stepped(
    batches: Sequence[Batch], method: str = "vanilla", **options: Any
) -> tuple[MultiTaskMethod, Tensor]:
    """A model after one step, and what the step returned."""
    model = toy_model(method, torch.float64).train()
    return model, train_step(model, TASKS, batches, sgd(model), **options)


def plain_losses(model: MultiTaskMethod, batch: Batch) -> list[Tensor]:
    """Losses of the tasks that have a target, by an ordinary forward pass."""
    features = model.backbone(batch.inputs)
    return [
        task.loss(head(features), batch.targets[task.name])
        for task, head in zip(TASKS, model.heads, strict=True)
        if task.name in batch.targets
    ]


def descend(model: MultiTaskMethod, losses: Sequence[Tensor]) -> None:
    torch.stack(list(losses)).sum().backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.data -= LR * parameter.grad


def assert_same_weights(model: nn.Module, expected: MultiTaskMethod) -> None:
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        # float64, only the order of sums differs
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14, msg=name)


def changes(model: MultiTaskMethod, method: str = "vanilla") -> dict[str, Tensor]:
    before = dict(toy_model(method, torch.float64).named_parameters())
    return {name: (p - before[name]).detach() for name, p in model.named_parameters()}


# ---- training


@pytest.mark.parametrize("without", [(), ("value",), ("kind", "flag")], ids=str)
def test_vanilla_step_descends_the_sum_of_the_losses_that_are_there(without: list[str]) -> None:
    batch = toy_batch(without=without)
    expected = toy_model(dtype=torch.float64)
    descend(expected, plain_losses(expected, batch))
    model, _ = stepped([batch])
    assert_same_weights(model, expected)


@pytest.mark.parametrize("without", [(), ("value",)], ids=str)
def test_step_returns_the_losses_before_it_and_which_of_them_there_were(
    without: list[str],
) -> None:
    batch = toy_batch(without=without)
    _, (values, present) = stepped([batch])
    assert present.tolist() == [float(task.name in batch.targets) for task in TASKS]
    expected = [loss.item() for loss in plain_losses(toy_model(dtype=torch.float64), batch)]
    assert values[present == 1].tolist() == pytest.approx(expected, rel=1e-6)  # float32
    assert (values[present == 0] == 0).all()


@pytest.mark.parametrize("num", [2, 3, 12])
def test_micro_batches_of_vanilla_equal_the_whole_batch(num: int) -> None:
    batch = toy_batch()
    whole, losses = stepped([batch])
    model, parts_losses = stepped(parts(batch, num))
    assert_same_weights(model, whole)
    torch.testing.assert_close(parts_losses, losses)


def test_loss_of_a_task_is_the_mean_over_the_micro_batches_that_have_it() -> None:
    first, second = parts(toy_batch(), 2)
    second = Batch(second.inputs, {k: v for k, v in second.targets.items() if k != "value"})
    model, (values, present) = stepped([first, second])
    expected = toy_model(dtype=torch.float64)
    kind, _, flag = plain_losses(expected, toy_batch())
    losses = [kind, plain_losses(expected, first)[1], flag]
    assert present.tolist() == [1, 1, 1]
    assert values.tolist() == pytest.approx([loss.item() for loss in losses], rel=1e-6)
    descend(expected, losses)
    assert_same_weights(model, expected)


def indexed_mean(prediction: Tensor, target: Tensor) -> Tensor:
    known = target.isfinite()
    return (prediction.squeeze(1)[known] - target[known]).square().mean()


def divided_sum(prediction: Tensor, target: Tensor) -> Tensor:
    """Like the indexed mean; without a known target its gradient is NaN too."""
    known = target.isfinite()
    difference = torch.where(known, prediction.squeeze(1) - target.nan_to_num(), 0)
    return difference.square().sum() / known.sum()


@pytest.mark.parametrize("num", [2, 4])
@pytest.mark.parametrize("loss", [indexed_mean, divided_sum])
def test_a_micro_batch_without_a_label_adds_nothing_whatever_the_loss_of_nothing_is(
    loss: Callable[[Tensor, Tensor], Tensor], num: int
) -> None:
    """Oracle: the whole batch at once. Both heads return one leaf, which the gate must spare."""
    tasks = [Task(n, 1, loss, (), count=lambda t: t.isfinite().sum()) for n in "ab"]
    inputs = toy_batch().inputs
    some = inputs[:, 0].clone()
    some[:6] = math.nan
    batch = Batch(inputs, {"a": some, "b": inputs[:, 1]})
    models = []
    for batches in ([batch], parts(batch, num)):
        torch.manual_seed(0)
        heads: list[nn.Module] = [nn.Identity(), nn.Identity()]
        model = VanillaMTL(nn.Linear(NUM_INPUTS, 1), heads).double().train()
        train_step(model, tasks, batches, sgd(model), check_finite=True)
        models.append(model)
    assert_same_weights(*models)


class Elsewhere(Ranks):
    """Another rank has targets of every task."""

    def begin_step(self, present: Sequence[Sequence[bool]], num_examples: int) -> list[list[bool]]:
        return [[True] * len(tasks) for tasks in present]

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor + 1  # labels


def test_a_prediction_that_is_nan_where_another_rank_has_the_targets_is_no_loss() -> None:
    model = VanillaMTL(nn.Linear(NUM_INPUTS, 4), [nn.Linear(4, 1)] * 2).train()
    model.ranks = Elsewhere()
    tasks = [Task(name, 1, mean_squared_error, ()) for name in "ab"]
    batch = Batch(torch.full((3, NUM_INPUTS), math.nan), {"a": torch.zeros(3)})
    loss = Objective(model, tasks, [batch, batch]).parts(0)[1]
    assert loss is not None
    assert loss.requires_grad
    assert float(loss.detach()) == 0


@pytest.mark.parametrize("method", METHODS)
def test_clipping_bounds_the_network_and_leaves_the_method_alone(method: str) -> None:
    free, _ = stepped([toy_batch()], method)
    clipped, _ = stepped([toy_batch()], method, grad_clip_norm=1e-3)
    own = {id(p) for p in clipped.mtl_parameters()}
    names = {name for name, p in clipped.named_parameters() if id(p) in own}
    after, before = changes(clipped, method), changes(free, method)
    network = torch.cat([change.flatten() for key, change in after.items() if key not in names])
    # clip_grad_norm_ divides by norm + 1e-6, the norm is about 1
    assert float(network.norm()) == pytest.approx(LR * 1e-3, rel=1e-5)
    for key in names:
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_cleared_after_the_step(method: str) -> None:
    model, _ = stepped([toy_batch()], method)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


class Watchful(VanillaMTL):
    """Remembers what it is told, and the weights at that time."""

    needs_losses_after_update = True  # type: ignore[assignment]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.own = nn.Parameter(torch.ones(1))
        self.calls: list[tuple[Tensor, ...]] = []
        self.weights: list[Tensor] = []

    def observe_update(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        self.calls.append((before, after, present))
        self.weights = [p.detach().clone() for p in self.model_parameters()]
        self.own.grad = torch.full_like(self.own, 2.0)


def watchful(extra: nn.Module | None = None) -> Watchful:
    toy = toy_model(dtype=torch.float64)
    backbone = toy.backbone if extra is None else nn.Sequential(toy.backbone, extra)
    return Watchful(backbone, list(toy.heads)).double().train()


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("without", [(), ("value",)], ids=str)
def test_a_method_sees_the_losses_after_the_networks_update_and_before_its_own(
    num: int, without: list[str]
) -> None:
    batch = toy_batch(without=without)
    model = watchful()
    losses = train_step(model, TASKS, parts(batch, num), sgd(model))
    expected, _ = stepped(parts(batch, num))
    for p, q in zip(model.weights, expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
    ((before, after, present),) = model.calls
    assert present.tolist() == [task.name not in without for task in TASKS]
    torch.testing.assert_close(before, losses[0])
    wanted = [loss.item() for loss in plain_losses(expected, batch)]
    assert after[present].tolist() == pytest.approx(wanted, rel=1e-6)  # float32
    assert (after[present] < before[present]).all()
    assert float(model.own.detach()) == pytest.approx(1 - LR * 2)
    assert_same_weights(nn.ModuleList([model.backbone, *model.heads]), expected)


class Restless(nn.Module):
    """Running statistics and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(5), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dropout(self.norm(x))
        return y


def test_losses_after_the_update_leave_statistics_and_random_numbers_alone() -> None:
    states, numbers = [], []
    for needed in (True, False):
        model: Any = watchful(Restless().double())
        model.needs_losses_after_update = needed
        torch.manual_seed(0)
        train_step(model, TASKS, parts(toy_batch(), 2), sgd(model))
        numbers.append(torch.rand(3))
        states.append({name: t for name, t in model.state_dict().items() if name != "own"})
        assert len(model.calls) == needed
    assert torch.equal(*numbers)
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


# ---- evaluation


class Replay(nn.Module):
    """Predicts columns of its input, so that a test knows every prediction."""

    ranks = ONE
    rotated = None
    evaluating = MultiTaskMethod.evaluating

    def __init__(self, *, extras: bool = False) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.extras = extras
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Any:
        self.modes.append(self.training)
        predictions = [x[:, :3], x[:, 3:4], x[:, 4:5]]
        return (predictions, ExtraOutputs((), [()] * 3)) if self.extras else predictions


def replayed(batches: Iterable[Batch], *, extras: bool = False) -> dict[str, float]:
    model: Any = Replay(extras=extras)
    return evaluate(model, TASKS, batches, "val")


def split_of(num: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(num, NUM_INPUTS, generator=generator)  # logits in [0, 1]
    inputs[: num // 3] *= -1
    targets = {
        "kind": torch.arange(num) % 3,
        "value": torch.randn(num, generator=generator),
        "flag": (torch.arange(num) % 4 == 0).float(),
    }
    return Batch(inputs, targets)


def uneven(batch: Batch, size: int) -> Iterator[Batch]:
    indices: tuple[Tensor, ...] = torch.arange(len(batch.inputs)).split(size)
    for part in indices:
        yield Batch(batch.inputs[part], {k: v[part] for k, v in batch.targets.items()})


def naive(batch: Batch) -> dict[str, float]:
    """All values over the whole split at once, in float64."""
    kind, value, flag = (batch.inputs[:, a:b].double() for a, b in ((0, 3), (3, 4), (4, 5)))
    targets = {k: v.double() if v.is_floating_point() else v for k, v in batch.targets.items()}
    losses = {
        "kind": float(-kind.log_softmax(1).gather(1, targets["kind"][:, None]).mean()),
        "value": float((value[:, 0] - targets["value"]).square().mean()),
        "flag": float(
            torch.log1p(torch.exp(torch.where(targets["flag"] == 1, -1, 1) * flag[:, 0])).mean()
        ),
    }
    result = {f"val/{name}/loss": loss for name, loss in losses.items()}
    result["val/kind/accuracy"] = sklearn.metrics.accuracy_score(targets["kind"], kind.argmax(1))
    result["val/value/mse"] = losses["value"]
    result["val/flag/f1"] = sklearn.metrics.f1_score(targets["flag"], flag[:, 0] > 0)
    result["val/loss"] = sum(losses.values())
    result["val/geomean_loss"] = math.prod(losses.values()) ** (1 / 3)
    return result


@pytest.mark.parametrize("size", [1, 5, 17, 100])
def test_evaluation_covers_the_split_whatever_the_batch_size(size: int) -> None:
    batch = split_of(17)
    # float32 losses of batches, summed in float64
    assert replayed(uneven(batch, size)) == pytest.approx(naive(batch), rel=1e-5)


def test_evaluation_ignores_extra_outputs() -> None:
    batch = split_of(17)
    assert replayed(uneven(batch, 5), extras=True) == replayed(uneven(batch, 5))


def test_examples_without_a_target_take_no_part_in_its_task() -> None:
    first, second = uneven(split_of(16), 8)
    without = Batch(second.inputs, {"kind": second.targets["kind"]})
    measured = replayed([first, without])
    expected = {
        key: value for key, value in naive(first).items() if not key.startswith("val/kind")
    } | {key: value for key, value in naive(split_of(16)).items() if key.startswith("val/kind")}
    for key in evaluation_keys(TASKS, "val")[:-2]:
        assert measured[key] == pytest.approx(expected[key], rel=1e-5), key


def test_a_task_without_any_label_has_no_metrics_and_no_part_in_means_over_tasks() -> None:
    batch = split_of(8)
    left_out = {name: target for name, target in batch.targets.items() if name != "flag"}
    no_label = {**left_out, "flag": torch.full((8,), -1)}
    expected = naive(batch)
    for targets in (left_out, no_label):
        measured = replayed([Batch(batch.inputs, targets)])
        assert not any("flag" in key for key in measured)
        assert measured["val/value/mse"] == pytest.approx(expected["val/value/mse"], rel=1e-5)
        losses = [expected[f"val/{name}/loss"] for name in left_out]
        assert measured["val/loss"] == pytest.approx(sum(losses), rel=1e-5)
        assert measured["val/geomean_loss"] == pytest.approx(math.prod(losses) ** 0.5, rel=1e-5)
        (note,) = unlabelled_notes(TASKS, measured)
        assert note.startswith("Split val has no label of task 'flag'")


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_runs_in_evaluation_mode_and_restores_the_mode(training: bool) -> None:
    model: Any = Replay().train(training)
    evaluate(model, TASKS, uneven(split_of(17), 5), "val")
    assert model.modes == [False] * 4
    assert model.training is training


def test_evaluation_leaves_a_frozen_layer_frozen() -> None:
    model = toy_model("rotograd").train()
    model.heads[0].insert(0, nn.BatchNorm1d(5).eval())
    before = {name: module.training for name, module in model.named_modules()}
    evaluate(model, TASKS, [], "val")
    assert {name: module.training for name, module in model.named_modules()} == before


def test_evaluation_builds_no_graph_and_reads_no_value_before_the_end(
    count_reads: Callable[[Callable[[], Any]], int],
) -> None:
    few = count_reads(lambda: replayed(uneven(split_of(17), 17)))
    many = count_reads(lambda: replayed(uneven(split_of(17), 1)))
    assert few == many


# ---- evaluation of dense tasks


def segmented(task_names: Sequence[str], num: int = 7) -> tuple[list[Task], list[Batch]]:
    """Dense tasks whose labels are missing more and more; each image is a batch."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (num, 4, 5), generator=generator)
    share = torch.linspace(0, 1, num).view(-1, 1, 1)  # of the last image nothing is labelled
    labels = torch.where(torch.rand(labels.shape, generator=generator) < share, -1, labels)
    metrics = segmentation(3)
    tasks = [Task(name, 3, segmentation_cross_entropy, metrics, (4, 5)) for name in task_names]
    batches = [
        Batch(logits[i : i + 1], dict.fromkeys(task_names, labels[i : i + 1])) for i in range(num)
    ]
    return tasks, batches


class Repeat(nn.Module):
    """Predicts its input for every task."""

    ranks = ONE
    rotated = None
    evaluating = MultiTaskMethod.evaluating

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.num_tasks = num_tasks

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x] * self.num_tasks


def repeated(tasks: Sequence[Task], batches: Sequence[Batch]) -> dict[str, float]:
    model: Any = Repeat(len(tasks))
    return evaluate(model, tasks, batches, "val")


def joined(batches: Sequence[Batch]) -> Batch:
    targets = {name: torch.cat([b.targets[name] for b in batches]) for name in batches[0].targets}
    return Batch(torch.cat([b.inputs for b in batches]), targets)


def test_loss_of_a_split_is_the_mean_over_what_the_task_counts() -> None:
    tasks, batches = segmented(["map"])
    whole = joined(batches)
    labels = whole.targets["map"]
    terms = nn.functional.cross_entropy(whole.inputs.double(), labels, ignore_index=-1)
    assert repeated(tasks, batches)["val/map/loss"] == pytest.approx(float(terms), rel=1e-6)
    uneven_batches = [joined(batches[:2]), joined(batches[2:])]
    assert repeated(tasks, uneven_batches) == pytest.approx(repeated(tasks, batches), rel=1e-6)
    by_image = [
        dataclasses.replace(tasks[0], count=lambda target: target[:, 0, 0].isfinite().sum())
    ]
    assert repeated(by_image, batches)["val/map/loss"] != pytest.approx(float(terms), rel=1e-2)


def test_batch_without_anything_to_count_has_no_weight_even_if_its_loss_is_nan() -> None:
    tasks, batches = segmented(["map"])
    assert (batches[-1].targets["map"] == -1).all()

    def mean_of_nothing(prediction: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(prediction, target, ignore_index=-1)

    other = [dataclasses.replace(tasks[0], loss=mean_of_nothing, count=tasks[0].num_labelled)]
    expected = repeated(tasks, batches)
    assert repeated(other, batches) == pytest.approx(expected, rel=1e-6)
    assert repeated(tasks, batches[-1:]) == {}


def test_metrics_with_the_same_accumulator_share_one_that_sees_every_batch_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    created: list[dense_metrics.ConfusionMatrix] = []
    create = dense_metrics.ConfusionMatrix.__init__

    def counting(self: dense_metrics.ConfusionMatrix, *arguments: Any) -> None:
        create(self, *arguments)
        created.append(self)

    monkeypatch.setattr(dense_metrics.ConfusionMatrix, "__init__", counting)
    tasks, batches = segmented(["left", "right"])
    measured = repeated(tasks, batches)
    assert len(created) == 2  # one per task, though both have the very same metrics
    num_labelled_pixels = int((joined(batches).targets["left"] != -1).sum())
    assert [int(metric.counts.sum()) for metric in created] == [num_labelled_pixels] * 2
    assert measured["val/left/miou"] == measured["val/right/miou"] > 0


def test_keys_of_an_evaluation_are_known_beforehand() -> None:
    assert set(replayed([split_of(17)])) == set(evaluation_keys(TASKS, "val"))
    for names in (["map"], ["left", "right"]):
        tasks, batches = segmented(names)
        assert set(repeated(tasks, batches)) == set(evaluation_keys(tasks, "val"))


# ---- NaN in a prediction


@pytest.fixture
def warnings_of_evaluation(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """Warnings of an evaluation, whatever an earlier run did to the package's logger."""
    logger = logging.getLogger("rotograd_cli.training.evaluation")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("size", [1, 5, 17])
def test_nan_in_a_prediction_makes_the_metrics_of_its_task_nan_with_one_warning(
    size: int, warnings_of_evaluation: pytest.LogCaptureFixture
) -> None:
    batch = split_of(17)
    expected = replayed([batch])
    batch.inputs[[3, 4, 11], 4] = math.nan  # the column of `flag`; as a logit not above 0
    batch.inputs[3, 5] = math.nan  # of no task
    measured = replayed(uneven(batch, size))
    assert warnings_of_evaluation.messages == [
        "The prediction of task 'flag' is NaN in 3 examples of split val; its metrics are NaN."
    ]
    for key, value in expected.items():
        if key in ("val/flag/f1", "val/flag/loss", "val/loss", "val/geomean_loss"):
            assert math.isnan(measured[key]), key
        else:
            assert measured[key] == pytest.approx(value, rel=1e-6), key


def test_predictions_may_be_one_number_per_example(
    warnings_of_evaluation: pytest.LogCaptureFixture,
) -> None:
    tasks = [Task("value", 1, nn.functional.mse_loss, ())]
    model = VanillaMTL(nn.Linear(2, 1), [nn.Flatten(0)])
    inputs = torch.randn(5, 2)
    expected = float((model.backbone(inputs)[:, 0] - 1).square().mean().detach())
    result = evaluate(model, tasks, [Batch(inputs, {"value": torch.ones(5)})], "val")
    assert result["val/value/loss"] == pytest.approx(expected, rel=1e-6)
    inputs[1] = math.nan
    evaluate(model, tasks, [Batch(inputs, {"value": torch.ones(5)})], "val")
    assert "is NaN in 1 examples" in warnings_of_evaluation.text


def test_nan_where_nothing_is_labelled_is_reported_too(
    warnings_of_evaluation: pytest.LogCaptureFixture,
) -> None:
    tasks, batches = segmented(["map"])
    batches[-1].inputs[0, 0, 0, 0] = math.nan
    assert math.isnan(repeated(tasks, batches)["val/map/miou"])
    (message,) = warnings_of_evaluation.messages
    assert "'map' is NaN in 1 examples of split val" in message


def test_infinite_logits_are_no_nan(warnings_of_evaluation: pytest.LogCaptureFixture) -> None:
    batch = split_of(17)
    expected = replayed([batch])["val/flag/f1"]
    batch.inputs[:, 4] *= math.inf
    assert replayed([batch])["val/flag/f1"] == expected
    assert warnings_of_evaluation.messages == []


# ---- statistics over tasks


def flags(num_tasks: int) -> tuple[list[Task], Batch]:
    """Binary tasks, column k of the input predicting task k, and their split."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, num_tasks, generator=generator)
    names = [f"flag{k}" for k in range(num_tasks)]
    tasks = [Task(name, 1, binary_cross_entropy, (f1(),)) for name in names]
    targets = {name: (torch.rand(50, generator=generator) < 0.5).float() for name in names}
    return tasks, Batch(inputs, targets)


class Columns(Repeat):
    """Predicts column k of its input for task k."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(x.split(1, 1))


@pytest.mark.parametrize("num", [2, 3, 40])
def test_statistics_over_tasks_are_those_of_numpy(num: int) -> None:
    tasks, batch = flags(num)
    model: Any = Columns(num)
    measured = evaluate(model, tasks, [batch], "test")
    values = [
        sklearn.metrics.f1_score(batch.targets[task.name], batch.inputs[:, k] > 0)
        for k, task in enumerate(tasks)
    ]
    expected = {
        "test/min_f1": np.min(values),
        "test/median_f1": np.median(values),
        "test/mean_f1": np.mean(values),
        "test/max_f1": np.max(values),
        "test/std_f1": np.std(values),
    }
    # torchmetrics computes F1 in float32, and the spread is a difference of such numbers
    assert {key: measured[key] for key in expected} == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert set(measured) == set(evaluation_keys(tasks, "test"))


@pytest.mark.parametrize("position", [0, 2])
def test_nan_of_one_task_makes_every_statistic_nan(position: int) -> None:
    tasks, batch = flags(3)
    batch.inputs[0, position] = math.nan
    model: Any = Columns(3)
    measured = evaluate(model, tasks, [batch], "val")
    assert all(math.isnan(measured[f"val/{s}_f1"]) for s in ("min", "median", "mean", "std"))


def test_there_are_no_statistics_of_different_metrics() -> None:
    assert "val/mean_f1" in evaluation_keys(flags(1)[0], "val")
    assert evaluation_keys(TASKS, "val")[-2:] == ["val/loss", "val/geomean_loss"]
    assert not any("min_" in key for key in evaluation_keys(TASKS, "val"))
    mixed = [*flags(2)[0], Task("plain", 1, binary_cross_entropy, ())]
    assert not any("min_" in key for key in evaluation_keys(mixed, "val"))


# ---- heads


def test_head_of_a_wrong_size_is_named_with_what_came_instead() -> None:
    check_predictions(TASKS, [torch.zeros(1, task.num_outputs) for task in TASKS])
    task = Task("depth", 2, mean_squared_error, (), map_shape=(3, 4))
    check_predictions([task], [torch.zeros(1, 2, 3, 4)])
    for shape in ((2,), (2, 4, 3), (1, 3, 4), (2, 3, 4, 1)):
        with pytest.raises(ConfigError) as caught:
            check_predictions([task], [torch.zeros(1, *shape)])
        assert str(caught.value) == (
            "The head of task 'depth' must return shape [1, 2, 3, 4] (N = 1), got "
            f"{[1, *shape]}; check `backbone` (the size of its map), `head`, or set "
            "++heads.depth.KEY=VALUE for this task."
        )


def test_a_metric_of_torchmetrics_is_evaluated_too() -> None:
    theirs = MetricSpec("theirs", "lower", MeanSquaredError, lambda p: p.squeeze(1))
    task = Task("value", 1, mean_squared_error, (mse(), theirs))
    model = VanillaMTL(nn.Linear(3, 4), [nn.Linear(4, 1)])
    batches = [Batch(torch.randn(n, 3), {"value": torch.randn(n)}) for n in (5, 2)]
    result = evaluate(model, [task], batches, "val")
    assert result["val/value/theirs"] == pytest.approx(result["val/value/mse"], rel=1e-6)


def test_a_count_of_ones_own_may_look_at_values_where_losses_are_computed_at_once() -> None:
    def count(target: Tensor) -> Tensor:
        return torch.tensor(float(target.sum().item()))

    tasks = [
        Task(f"t{k}", 1, binary_cross_entropy, (f1(),), batchable=True, count=count)
        for k in range(2)
    ]
    batch = Batch(torch.zeros(4, 1), {"t0": torch.ones(4), "t1": torch.tensor([1.0, 0, 0, 0])})
    counts = _num_labelled(tasks, batch, torch.zeros((), dtype=torch.float64))
    assert counts.tolist() == [4, 1]
