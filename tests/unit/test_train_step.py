"""One optimiser step and one evaluation, against autograd and a naive computation."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
import sklearn.metrics
import torch
from torch import Tensor, nn

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError
from rotograd_cli.losses import mean_squared_error
from rotograd_cli.methods.base import ExtraOutputs, MultiTaskMethod
from rotograd_cli.tasks import Task
from rotograd_cli.training.step import check_predictions, evaluate, evaluation_keys, train_step
from tests.toy import METHODS, NUM_INPUTS, TASKS, ToyDataset, toy_model

LR = 0.1


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


def assert_same_weights(model: MultiTaskMethod, expected: MultiTaskMethod) -> None:
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


# ---- evaluation


class Replay(nn.Module):
    """Predicts columns of its input, so that a test knows every prediction."""

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
    inputs = torch.rand(
        num, NUM_INPUTS, generator=generator
    )  # logits in [0, 1]: torchmetrics' trap
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


def test_task_without_any_target_is_nan_and_the_others_are_measured() -> None:
    batch = split_of(8)
    without = Batch(batch.inputs, {"kind": batch.targets["kind"], "value": batch.targets["value"]})
    measured = replayed([without])
    assert math.isnan(measured["val/flag/loss"])
    assert math.isnan(measured["val/flag/f1"])
    assert measured["val/value/mse"] == pytest.approx(naive(batch)["val/value/mse"], rel=1e-5)


def test_keys_of_an_evaluation_are_known_beforehand() -> None:
    assert set(replayed([split_of(17)])) == set(evaluation_keys(TASKS, "val"))


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_runs_in_evaluation_mode_and_restores_the_mode(training: bool) -> None:
    model: Any = Replay().train(training)
    evaluate(model, TASKS, uneven(split_of(17), 5), "val")
    assert model.modes == [False] * 4
    assert model.training is training


def test_evaluation_builds_no_graph_and_reads_no_value_before_the_end(
    count_reads: Callable[[Callable[[], Any]], int],
) -> None:
    few = count_reads(lambda: replayed(uneven(split_of(17), 17)))
    many = count_reads(lambda: replayed(uneven(split_of(17), 1)))
    assert few == many


# ---- heads


def test_head_of_a_wrong_size_is_named() -> None:
    good = [torch.zeros(1, task.num_outputs) for task in TASKS]
    check_predictions(TASKS, good)
    for wrong in (torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 1, 4)):
        with pytest.raises(ConfigError, match=r"head of task 'value' must return shape \[N, 1\]"):
            check_predictions(TASKS, [good[0], wrong, good[2]])


def test_dense_task_needs_its_map_and_the_message_says_what_came_instead() -> None:
    task = Task("depth", 2, mean_squared_error, (), map_shape=(3, 4))
    check_predictions([task], [torch.zeros(1, 2, 3, 4)])
    for shape in ((2,), (2, 4, 3), (1, 3, 4), (2, 3, 4, 1)):
        with pytest.raises(ConfigError) as caught:
            check_predictions([task], [torch.zeros(1, *shape)])
        assert str(caught.value) == (
            "The head of task 'depth' must return shape [N, 2, 3, 4], got "
            f"[N, {', '.join(map(str, shape))}]; check `backbone` (the size of its map), `head` "
            "and `heads.depth`."
        )
