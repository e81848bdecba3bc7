"""Going back to a step that was not finite, and taking it apart."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.data.base import Batch, Split
from rotograd_cli.errors import NonFiniteError
from rotograd_cli.training.checkpoint import load_checkpoint
from rotograd_cli.training.diagnosis import describe, find_origin, same_numbers
from rotograd_cli.training.interrupts import StopRequested
from rotograd_cli.training.nonfinite import NAME, fit_or_dump
from rotograd_cli.training.seeding import epoch_order
from tests.cli.test_resume import same
from tests.contract.test_methods import METHODS as ALL_METHODS
from tests.contract.test_methods import build, max_num_tasks
from tests.toy import METHODS, NUM_INPUTS, TASKS, ToyDataset, toy_model

from .test_loop import Memory, trainer

ROWS = [int(epoch_order(20, seed=0, epoch=epoch)[7]) for epoch in (0, 2)]  # of their second steps


class Poisoned(ToyDataset):
    """Two training examples have infinite targets, for some of the reads."""

    def __init__(self, *, after: int = 0, until: float = math.inf) -> None:
        super().__init__()
        self.after, self.until, self.reads = after, until, 0

    def batch(self, split: Split, indices: Tensor) -> Batch:
        batch = super().batch(split, indices)
        if split == "train":
            self.reads += 1
            if self.after < self.reads <= self.until:
                batch.targets["value"][torch.isin(indices, torch.tensor(ROWS))] = math.inf  # type: ignore[index]
        return batch


def failed(run: Any) -> str:
    with pytest.raises(NonFiniteError) as caught:
        fit_or_dump(run)
    return str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_an_accelerator_that_notices_late_dumps_the_step_that_failed(
    method: str, tmp_path: Path
) -> None:
    """Oracle: the same run where every step is looked at."""
    dumps = []
    for name, looks in (("looks", True), ("waits", False)):
        run = trainer(tmp_path / name, method, dataset=Poisoned(), log_every_steps=100)
        run.looks_at_every_step = looks
        message = failed(run)
        dumps.append(load_checkpoint(tmp_path / name / NAME))
        step = dumps[-1]["failure"]["step"]
        assert f"became inf in step {step}. Data set 'toy', split train, task 'value'" in message
        if looks:
            assert message.endswith(f"{NAME} shows where it began.")
        else:
            assert message.endswith(f"{NAME} shows where it began, of step {step}.")
    first, second = dumps
    assert same(first["failure"], second["failure"])
    for key in ("model", "optimizers", "schedulers", "rng", "window"):
        assert same(first[key], second[key])
    (batch,) = first["failure"]["micro_batches"]
    assert batch["targets"]["value"].isinf().any()


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_step_of_a_later_epoch_is_found_from_the_last_checkpoint(
    shuffle: bool, tmp_path: Path
) -> None:
    run = trainer(tmp_path, "rotograd", dataset=Poisoned(after=6), shuffle=shuffle)
    failed(run)
    dump = load_checkpoint(tmp_path / NAME)
    assert dump["failure"]["step"] > 6
    assert dump["state"]["step"] == dump["failure"]["step"] - 1
    assert load_checkpoint(tmp_path / "last.pt")["state"]["step"] == 6


def test_a_failure_that_does_not_come_back_has_no_dump(tmp_path: Path) -> None:
    run = trainer(tmp_path, dataset=Poisoned(until=2))
    run.looks_at_every_step = False
    message = failed(run)
    assert "There is no dump of it: taken again from the last checkpoint, step 2" in message
    assert not (tmp_path / NAME).exists()


def test_a_batch_that_was_read_wrongly_once_is_the_one_dumped(tmp_path: Path) -> None:
    run = trainer(tmp_path, dataset=Poisoned(until=2))
    failed(run)
    (batch,) = load_checkpoint(tmp_path / NAME)["failure"]["micro_batches"]
    assert batch["targets"]["value"].isinf().any()


def test_a_run_without_its_checkpoints_has_no_dump(tmp_path: Path) -> None:
    run = trainer(tmp_path, dataset=Poisoned(after=6))

    class Removing(Memory):
        def poll(self) -> None:
            if run.state.step == 6:
                (tmp_path / "last.pt").unlink(missing_ok=True)
                (tmp_path / "last.previous.pt").unlink(missing_ok=True)

    run.recorder = Removing()
    assert failed(run).endswith(
        f"There is no dump of it: there is no {tmp_path}/last.pt to go back to."
    )


def test_a_signal_ends_the_way_back(tmp_path: Path) -> None:
    run = trainer(tmp_path, dataset=Poisoned(after=6))

    class Stopping(Memory):
        def poll(self) -> None:
            if run.failed_batches:
                raise StopRequested(15)

    run.recorder = Stopping()
    assert failed(run).endswith("There is no dump of it: stopped by SIGTERM")
    assert load_checkpoint(tmp_path / "last.pt")["state"]["step"] == 6


def test_a_checkpoint_from_after_the_failure_is_not_gone_back_to(tmp_path: Path) -> None:
    """On an accelerator a checkpoint may be written before the failure is noticed."""
    run = trainer(tmp_path, dataset=Poisoned(), log_every_steps=100, batch_size=2)
    run.looks_at_every_step = False

    class Saving(Memory):
        def poll(self) -> None:
            if run.state.step == 8:
                run._save("last.pt")

    run.recorder = Saving()
    failed(run)
    assert load_checkpoint(tmp_path / "last.pt")["state"]["step"] == 8
    assert not all(
        p.isfinite().all() for p in load_checkpoint(tmp_path / "last.pt")["model"].values()
    )
    dump = load_checkpoint(tmp_path / NAME)
    assert dump["failure"]["step"] <= 8
    (batch,) = dump["failure"]["micro_batches"]
    assert batch["targets"]["value"].isinf().any()


def test_records_and_checkpoints_are_those_of_the_run_before_the_failure(tmp_path: Path) -> None:
    run = trainer(tmp_path, dataset=Poisoned(after=6))
    failed(run)
    evaluations = [r["step"] for r in run.recorder.records if "val/loss" in r]
    assert evaluations == [3, 6]
    assert len({r["step"] for r in run.recorder.records if "train/loss" in r}) == len(
        [r for r in run.recorder.records if "train/loss" in r]
    )
    assert (run.state.epoch, run.state.step) == (
        2,
        load_checkpoint(tmp_path / NAME)["state"]["step"],
    )


# ---- where it began


def batches_of(num: int, size: int = 4) -> list[Batch]:
    dataset = ToyDataset()
    return [dataset.batch("train", torch.arange(size * i, size * (i + 1))) for i in range(num)]


def norms_written_out(model: Any, batches: list[Batch]) -> dict[str, float]:
    """Gradients with respect to the features, one task and micro-batch at a time, by autograd."""
    squares = dict.fromkeys([task.name for task in TASKS], 0.0)
    counts = {t.name: sum(t.name in b.targets for b in batches) for t in TASKS}
    for batch in batches:
        for k, task in enumerate(TASKS[: len(model)]):
            if task.name in batch.targets:
                z = model.backbone(batch.inputs).detach().requires_grad_()
                loss = task.loss(model.heads[k](model[k].view(z)), batch.targets[task.name])
                (gradient,) = torch.autograd.grad(loss / counts[task.name], [z])
                squares[task.name] += float(gradient.double().square().sum())
    return {name: square**0.5 for name, square in squares.items()}


@pytest.mark.parametrize("num", [1, 2])
@pytest.mark.parametrize("hidden", [(), (6,)])
@pytest.mark.parametrize("method", ALL_METHODS)
def test_gradient_norms_are_those_at_the_features(
    method: str, hidden: tuple[int, ...], num: int
) -> None:
    torch.manual_seed(0)
    heads = [
        nn.Sequential(
            *[layer for size in hidden for layer in (nn.Linear(6, size), nn.ReLU())],
            nn.Linear(hidden[-1] if hidden else 6, task.num_outputs),
        )
        for task in TASKS[: max_num_tasks(method) or 3]
    ]
    model = build(method, heads, nn.Sequential(nn.Linear(NUM_INPUTS, 6), nn.Tanh()))
    batches = batches_of(num)
    if num == 2 and len(heads) == 3:
        del batches[1].targets["flag"]  # type: ignore[attr-defined]
    wanted = norms_written_out(model, batches)
    before = copy.deepcopy(dict(model.named_parameters()))
    origin = find_origin(model, TASKS[: len(heads)], batches)
    for name, norm in origin.gradient_norms.items():
        assert norm == pytest.approx(wanted[name], rel=1e-5)
    assert (origin.before, origin.output, origin.gradient) == ([], None, None)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


class _Spoils(nn.Module):
    """Gives NaN for one element."""

    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(torch.arange(x.numel()).view(x.shape) == 2, math.nan)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_module_with_an_output_that_is_not_finite_is_named(method: str) -> None:
    model = toy_model(method)
    model.heads[1].insert(0, _Spoils())
    origin = find_origin(model, TASKS, batches_of(1))
    what = "[4, 5], 20 elements: 0 infinite, 1 NaN"
    assert origin.output == f"heads.1.0 (_Spoils), output {what}"
    assert origin.gradient is not None
    assert origin.gradient.startswith("heads.1.")


def test_a_gradient_that_is_not_finite_is_named_in_the_order_of_the_backward_pass() -> None:
    model = toy_model("vanilla")
    names = [name for name, _ in model.backbone.named_parameters()]
    last = model.backbone.get_parameter(names[-2])  # the last layer's weight
    last.register_hook(lambda gradient: gradient * math.inf)
    assert find_origin(model, TASKS, batches_of(1)).gradient == f"backbone.{names[-2]}"


@pytest.mark.parametrize("method", ["rotograd", "rotateonly"])
def test_a_gradient_that_the_method_sets_is_looked_at_too(method: str) -> None:
    model: Any = toy_model(method)
    exact = model.rotated.objective
    model.rotated.objective = lambda *measured: exact(*measured) * math.nan
    assert find_origin(model, TASKS, batches_of(1)).gradient == "rotations.free_parameters"


def test_what_is_not_finite_before_the_step_is_named() -> None:
    model = toy_model("vanilla")
    with torch.no_grad():
        model.heads[0][0].weight[0, 0] = math.nan
    first, second = batches_of(2)
    second.inputs[0, 1] = math.inf
    first.targets["value"][2] = -math.inf
    assert find_origin(model, TASKS, [first, second]).before == [
        "the targets of 'value' of micro-batch 0 ([4], 4 elements: 1 infinite, 0 NaN)",
        "the inputs of micro-batch 1 ([4, 6], 24 elements: 1 infinite, 0 NaN)",
        "heads.0.0.weight ([3, 5], 15 elements: 0 infinite, 1 NaN)",
    ]


def test_numbers_are_compared_bit_for_bit() -> None:
    nan, one = math.nan, 1.0
    assert same_numbers({"a": nan, "b": one}, {"b": one, "a": nan})
    assert not same_numbers({"a": one}, {"a": math.nextafter(one, 2)})
    assert not same_numbers({"a": 0.0}, {"a": -0.0})
    assert not same_numbers({"a": nan}, {"b": nan})
    assert describe(torch.tensor([math.inf, math.nan, 1.0])) == (
        "[3], 3 elements: 1 infinite, 1 NaN"
    )
