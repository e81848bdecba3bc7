"""Finding the step that is not finite from a checkpoint, and where in the step that began."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.data.base import Batch, Split
from rotograd_cli.errors import NonFiniteError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rule import (
    Combining,
    Losses,
    LossWeighting,
    Rule,
    Statistics,
    Weighting,
)
from rotograd_cli.training.checkpoint import load_checkpoint, load_newest
from rotograd_cli.training.checkpoint_content import restore
from rotograd_cli.training.loop import Trainer
from rotograd_cli.training.nonfinite import explain, find_origin, watched
from rotograd_cli.training.seeding import epoch_order
from tests.toy import METHODS, TASKS, ToyDataset, toy_model

from .test_loop import trainer

ROW = int(epoch_order(20, seed=0, epoch=1)[7])  # of the fifth step, the second of its epoch


class Poisoned(ToyDataset):
    """The target of one training example is infinite after some batches."""

    def batch(self, split: Split, indices: Tensor) -> Batch:
        batch = super().batch(split, indices)
        if split == "train" and len(self.order) > 18:
            wrong = indices == ROW
            target = batch.targets["value"].masked_fill(wrong, math.inf)
            return Batch(batch.inputs, {**batch.targets, "value": target})
        return batch


class Spoils(nn.Module):
    """Gives NaN from its third step on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("num", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.num += self.training
        return x * torch.where(self.num > 2, math.nan, 1.0)


def origin_of(loop: Trainer, folder: Path | None = None) -> str | None:
    """What the diagnosis of a run says, from its newest checkpoint in a folder if one is given."""
    if folder is not None:
        content = load_newest(folder)
        assert content is not None
        restore(loop.run, content, folder, loop.options.epochs)
    return find_origin(loop.run, loop.batches, loop.options, last_step=9)


def failed(loop: Trainer) -> str:
    with pytest.raises(NonFiniteError) as caught:
        loop.fit()
    return str(caught.value)


def test_the_step_and_its_data_are_found_from_the_last_checkpoint(tmp_path: Path) -> None:
    """Oracle: the line of the run itself."""
    for method in METHODS:
        loop = trainer(tmp_path / method, method, dataset=Poisoned(), log_every_steps=100)
        line = failed(loop)
        num_records = len(loop.recorder.records)
        assert line.startswith("The loss of task 'value' became inf in step 5. Data set 'toy'")
        assert load_checkpoint(tmp_path / method / "last.pt")["state"]["step"] == 3
        files = {file: file.read_bytes() for file in (tmp_path / method).iterdir()}
        assert origin_of(loop, tmp_path / method) == line
        assert len(loop.recorder.records) == num_records
        assert {file: file.read_bytes() for file in (tmp_path / method).iterdir()} == files


@pytest.mark.parametrize("method", METHODS)
def test_the_module_is_named_by_the_run_and_by_the_diagnosis(method: str, tmp_path: Path) -> None:
    loop = trainer(tmp_path, method)
    loop.run.model.heads[1].insert(0, Spoils())
    where = "output of heads.1.0 (Spoils), [6, 5] with 0 infinite, 30 NaN"
    line = failed(loop)
    assert line.startswith(f"The loss of task 'value' became nan in step 3, first in the {where};")
    assert line.endswith("or set train.grad_clip_norm.")
    origin = origin_of(loop, tmp_path)
    assert origin == line.replace("3, first in", "3. It began in")
    assert not any(module._forward_hooks for module in loop.run.model.modules())


def logarithm(prediction: Tensor, target: Tensor) -> Tensor:
    """Is NaN for all that a network predicts."""
    return (prediction.squeeze(1) + 0 * target - 100).log().mean()


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_of_finite_predictions_is_named(method: str, tmp_path: Path) -> None:
    dataset = ToyDataset()
    dataset.tasks = tuple(replace(t, loss=logarithm) if t.name == "value" else t for t in TASKS)
    loop = trainer(tmp_path, method, dataset=dataset)
    where = "in the loss of task 'value': its predictions and targets are finite; clamp"
    assert failed(loop).startswith(f"The loss of task 'value' became nan in step 1, first {where}")
    origin = origin_of(loop, tmp_path)
    assert origin is not None
    assert origin.startswith(f"The loss of task 'value' became nan in step 1. It began {where}")


def test_no_loss_is_named_where_another_rank_may_have_predicted_nan(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    micro_batches = next(loop.batches.steps(0, 0))
    error = NonFiniteError("The loss of task 'value' became nan", losses={"value": math.nan})
    alone = explain(error, loop.run, loop.batches, micro_batches)
    assert alone.startswith(", first in the loss of task 'value': ")
    loop.run.ranks = SimpleNamespace(size=2)
    assert explain(error, loop.run, loop.batches, micro_batches).startswith("; lower ")


class NaNWeights(Weighting):
    def weights(self, s: Statistics) -> Tensor:
        return s.norms * math.nan


class InverseLosses(LossWeighting):
    def factors(self, losses: Losses) -> Tensor:
        return 1 / (0 * losses.values)


class NaNCombination(Combining):
    def combine(self, G: Tensor, s: Statistics) -> Tensor:
        return G.sum(0) / 0


def trainer_of(rule: Rule, folder: Path, **changes: Any) -> Trainer:
    """A trainer whose networks are trained by a rule."""
    loop: Trainer = trainer(folder, **changes)
    model = loop.run.model
    loop.run.model = MultiTaskMethod(model.backbone, list(model.heads), rule)
    return loop


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        (NaNWeights, "weights of method NaNWeights"),
        (InverseLosses, "weights of method InverseLosses"),
        (NaNCombination, "combination of method NaNCombination"),
    ],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_rule_is_named(rule: type[Rule], where: str, parts: int, tmp_path: Path) -> None:
    loop = trainer_of(rule(), tmp_path, accumulate_steps=parts)
    failed(loop)
    origin = origin_of(loop, tmp_path)
    assert origin is not None
    assert f" in step 1. It began in the {where}; in a rule of your own, divide by " in origin
    assert not any(name in vars(loop.run.model.rule) for name in ("weights", "factors", "combine"))


def test_a_rule_that_fails_in_a_micro_batch_is_named(tmp_path: Path) -> None:
    """Weights of a task without a label in the first of two micro-batches are infinite."""

    class Inverse(Weighting):
        def weights(self, s: Statistics) -> Tensor:
            return 1 / s.norms

    loop = trainer_of(Inverse(), tmp_path, accumulate_steps=2)
    order = epoch_order(20, seed=0, epoch=0)
    dataset: Any = loop.dataset
    dataset.targets["train"]["kind"][order[:3]] = -1
    failed(loop)
    origin = origin_of(loop, tmp_path)
    assert origin is not None
    assert "It began in the weights of method Inverse; " in origin


def test_a_gradient_is_named_in_the_order_of_the_backward_pass(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    names = [name for name, _ in loop.run.model.backbone.named_parameters()]
    last = loop.run.model.backbone.get_parameter(names[-2])
    last.register_hook(lambda gradient: gradient * math.inf)
    assert "became infinite or NaN in step 1; lower" in failed(loop)
    origin = origin_of(loop, tmp_path)
    assert origin is not None
    assert f"in step 1. It began in the gradient of backbone.{names[-2]}, [5, 8] with" in origin


def test_an_update_that_is_not_finite_is_named(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    loop.run.groups[0].optimizer.param_groups[0]["lr"] = 3e38
    origin = origin_of(loop)
    assert origin is not None
    assert origin.startswith("The update of step 1 is not finite: parameter ")


def test_parameters_that_were_wrong_before_are_named(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    with torch.no_grad():
        loop.run.model.heads[0][0].weight[0, 0] = math.nan
    assert origin_of(loop) == (
        "Before step 1: the checkpoint has the parameter heads.0.0.weight, [3, 5] with 0 infinite, "
        "1 NaN."
    )


def test_running_statistics_that_were_wrong_before_are_named(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    loop.run.model.heads[0].insert(0, nn.BatchNorm1d(5))
    loop.run.model.heads[0][0].running_mean[0] = math.nan
    origin = origin_of(loop)
    name = "heads.0.0.running_mean"
    assert origin == (
        f"Before step 1: the checkpoint has the buffer {name}, [5] with 0 infinite, 1 NaN."
    )


def test_an_infinite_mask_is_no_failure(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    loop.run.model.backbone.register_buffer("mask", torch.tensor([0, -math.inf]))
    assert origin_of(loop) is None


def test_finite_steps_are_no_failure(tmp_path: Path) -> None:
    loop = trainer(tmp_path)
    assert origin_of(loop) is None
    assert loop.run.state.step == 9
    assert loop.recorder.records == list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["rotograd", "rotateonly"])
def test_a_gradient_that_the_method_sets_is_named_by_the_step(method: str, tmp_path: Path) -> None:
    loop = trainer(tmp_path, method)
    model: Any = loop.run.model
    backward = model.backward

    def spoiled(*losses: Any, **options: Any) -> Tensor:
        values: Tensor = backward(*losses, **options)
        model.rotations.free_parameters.grad *= math.nan
        return values

    model.backward = spoiled
    assert failed(loop).startswith("The gradient of rotations.free_parameters became infinite or")


def test_what_is_finite_is_not_noted() -> None:
    model = toy_model("rotograd")
    batch = ToyDataset().batch("train", torch.arange(4))
    with watched(model) as findings:
        predictions = model(batch.inputs)
        pairs = zip(TASKS, predictions, strict=True)
        losses = [task.loss(p, batch.targets[task.name]) for task, p in pairs]
        model.backward(losses)
    assert findings == ([], [])
