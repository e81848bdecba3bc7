"""Accelerators: series planned ahead, so that no step reads a number, and none is ever wrong.

On the CPU reading a number is free; here it is made to count as if it were not.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rotograd_cli.linalg import devices
from rotograd_cli.methods.rotation.rotations import Rotations
from rotograd_cli.training.checkpoint_content import content_of, restore
from rotograd_cli.training.train_state import TrainState
from tests.unit.test_linear_heads import (
    METHODS,
    assert_same_parameters,
    inputs,
    losses_of,
    model,
    pass_once,
    train,
    usual_heads,
)
from tests.unit.test_loop import trainer

Build = Callable[..., Any]


def conv_heads() -> list[nn.Module]:
    return [
        nn.Conv1d(3, 2, 2, padding=1),
        nn.Sequential(nn.Conv1d(3, 4, 1, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(20, 1)),
    ]


def linear_case(path: str) -> Build:
    return lambda **options: model(usual_heads(), path, rotated=5, **options)


def conv_case(**options: Any) -> Any:
    return model(conv_heads(), "folded", shape=(3, 5), rotated=3, post_shape=(5,), **options)


CASES: dict[str, Build] = {
    "general": linear_case("general"),
    "folded": linear_case("folded"),
    "convolutions": conv_case,
}
every_case = pytest.mark.parametrize("case", CASES)
every_map = pytest.mark.parametrize("rotation_map", ["expm", "cayley"])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(1)


@pytest.fixture
def reads_cost(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Switches between an accelerator (at first) and the CPU."""

    def switch(cost: bool) -> None:
        monkeypatch.setattr(devices, "reads_are_free", lambda device: not cost)

    switch(True)
    return switch


@every_case
@every_map
@pytest.mark.parametrize("method", METHODS)
def test_training_by_plan_gives_the_parameters_of_training_by_norm(
    method: str, rotation_map: str, case: str, reads_cost: Callable[[bool], None]
) -> None:
    by_plan = CASES[case](method=method, rotation_map=rotation_map)
    by_norm, start = copy.deepcopy(by_plan), copy.deepcopy(by_plan)
    train(by_plan, 30)
    reads_cost(False)
    train(by_norm, 30)
    assert_same_parameters(by_plan, by_norm)
    moved = (by_plan.rotations.free_parameters - start.rotations.free_parameters).abs().amax()
    assert moved > 1e-4


@every_case
@every_map
@pytest.mark.parametrize("rebase_every", [None, 2])
def test_no_step_after_the_first_reads_a_number(
    case: str,
    rotation_map: str,
    rebase_every: int | None,
    reads_cost: Callable[[bool], None],
    count_reads: Callable[[Callable[[], Any]], int],
) -> None:
    m = CASES[case](rotation_map=rotation_map, rebase_every=rebase_every, normalize_losses=True)
    optimizers = [
        torch.optim.SGD(list(group), lr=0.05, momentum=0.9)
        for group in (m.model_parameters(), m.mtl_parameters())
    ]

    def step() -> None:
        for accumulating in (True, False):
            losses = [8 * loss / 2 for loss in losses_of(m(inputs()))]
            scale = torch.tensor(8.0, dtype=torch.float64)
            m.backward(losses, loss_scale=scale, num_micro_batches=2, accumulating=accumulating)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    assert count_reads(step) == 1  # the norm, once
    assert count_reads(lambda: [step() for _ in range(5)]) == 0
    m.eval()
    with torch.no_grad():
        assert count_reads(lambda: m(inputs())) == 1  # planned anew after a switch of the mode
        assert count_reads(lambda: [m(inputs()) for _ in range(3)]) == 0
    assert count_reads(m.refresh) == 1
    reads_cost(False)
    assert count_reads(m.train().refresh) == 0  # nothing is planned where reading is free
    assert count_reads(lambda: pass_once(m)) > 0


@every_case
@every_map
@pytest.mark.parametrize("norm", [3.0, 6.0, 9.0, 30.0])
def test_a_norm_beyond_its_plan_makes_numbers_nan_and_never_wrong(
    norm: float, case: str, rotation_map: str, reads_cost: Callable[[bool], None]
) -> None:
    m = CASES[case](rotation_map=rotation_map)
    m.rotations.free_parameters.detach().mul_(1e-3)
    pass_once(m)  # planned for a norm of 4
    X = m.rotations.free_parameters.detach()
    X.mul_(norm / torch.linalg.vector_norm(X, dim=1).amax())
    m.zero_grad()
    by_norm = copy.deepcopy(m)
    found = pass_once(m)
    reads_cost(False)
    wanted = pass_once(by_norm)

    if any(p.isnan().any() for p in found):
        assert norm > 4
        assert all(p.isnan().all() for p in found)
        assert m.num_nonfinite.tolist() == [1] * len(m)  # tasks that are left out of the step
        assert all((p.grad.isnan() | (p.grad == 0)).all() for p in m.parameters())
    else:
        # the general path's norm is a little smaller, and a Cayley transform is no series there
        assert norm < 8 or (rotation_map == "cayley" and case != "folded")
        for p, q in zip(found, wanted, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
        for p, q in zip(m.parameters(), by_norm.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-12)


@every_case
def test_refresh_plans_anew(case: str, reads_cost: Callable[[bool], None]) -> None:
    m = CASES[case]()
    m.rotations.free_parameters.detach().mul_(1e-3)
    pass_once(m)
    m.zero_grad()
    m.rotations.free_parameters.detach().mul_(1e3 * 20)
    assert any(p.isnan().any() for p in m(inputs()))
    m.refresh()
    found = m(inputs())
    reads_cost(False)
    wanted = copy.deepcopy(m)(inputs())
    for p, q in zip(found, wanted, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-11)


def test_plans_have_room_for_growth_and_shrink_with_the_norm(
    reads_cost: Callable[[bool], None],
) -> None:
    """Twice the norm at the last refresh is still planned for, and so is a norm of 4."""
    rotations = Rotations(2, 5).double()
    X, rows = rotations.free_parameters.detach(), torch.ones(2, 1, 5, dtype=torch.float64)
    X[1, 3] = 7.0
    rotations.refresh()
    for value, planned in ((13.9, True), (14.1, False)):
        X[1, 3] = value
        assert rotations.whole().R.isnan().any() != planned
        assert rotations.fold(rows).weight.isnan().any() != planned
    X[1, 3] = 1.0
    rotations.refresh()
    for value, planned in ((3.9, True), (4.1, False)):
        X[1, 3] = value
        assert rotations.whole().R.isnan().any() != planned
        assert rotations.fold(rows).weight.isnan().any() != planned


@pytest.mark.parametrize("case", ["general", "folded"])
def test_a_copy_plans_for_itself(case: str, reads_cost: Callable[[bool], None]) -> None:
    m = CASES[case]()
    train(m, 2)
    other = copy.deepcopy(m)
    for each in (m, other):
        train(each, 3)
    assert_same_parameters(m, other)


@pytest.mark.parametrize("stop", [1, 2, 4, 5])
def test_a_resumed_run_goes_on_with_the_plans_of_the_run(
    stop: int, tmp_path: Path, reads_cost: Callable[[bool], None]
) -> None:
    """Oracle: the run that was not interrupted. Epochs have three steps."""
    run = trainer(tmp_path / "whole", "rotograd", log_every_steps=100)
    run.run.model.rotations.free_parameters.detach().normal_()
    run.run.groups[1].optimizer.param_groups[0]["lr"] = 100.0
    saved: list[dict[str, Any]] = []

    def save(state: TrainState, *unused: int) -> None:
        if state.step == stop:
            content = {**content_of(run.run), "records": {}, "config": run.config}
            saved.append(copy.deepcopy(content))

    run.recorder.progress = save
    run.train_epoch()
    run.train_epoch()
    resumed = trainer(tmp_path / "resumed", "rotograd", log_every_steps=100)
    restore(resumed.run, saved[0], tmp_path, run.options.epochs)
    while resumed.run.state.step < run.run.state.step:
        resumed.train_epoch()
    for p, q in zip(run.run.model.parameters(), resumed.run.model.parameters(), strict=True):
        assert torch.equal(p, q)
    del saved[0]["planned_norm"]  # as earlier versions saved it
    restore(resumed.run, saved[0], tmp_path, run.options.epochs)


def test_the_loop_refreshes_the_plans_whenever_it_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(Rotations, "refresh", lambda self: calls.append(1))
    run = trainer(tmp_path, "rotograd", log_every_steps=2)
    run.fit()
    records = [record for record in run.recorder.records if "train/loss" in record]
    assert len(calls) == len(records) > 3
