"""Learning rates: warm-up, schedules that count steps, epochs or evaluations, and their ends."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rotograd_cli.config.components import Constructor
from rotograd_cli.config.schedules import Schedule
from rotograd_cli.errors import ConfigError
from rotograd_cli.training.checkpoint_content import content_of, restore
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.schedules import OptimizerGroup, RunLength
from tests.toy import toy_model

LENGTH = RunLength(epochs=4, steps_per_epoch=5)
COSINE = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": "end"}
EXPONENTIAL = {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.5}
MILESTONES = {
    "_target_": "torch.optim.lr_scheduler.MultiStepLR",
    "milestones": ["1 epochs", "end"],
}
PLATEAU = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "mode": "min"}
LR = 0.3


def group_of(
    options: Mapping[str, Any], interval: str, length: RunLength = LENGTH, **warmup: int
) -> OptimizerGroup:
    node = {"interval": interval, "scheduler": {**options, "_partial_": True}, **warmup}
    schedule = Schedule(node, "model_scheduler", Constructor)
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]}], LR)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 10 * LR})
    return OptimizerGroup(
        "model",
        optimizer,
        schedule(optimizer, length, "min"),
        interval,
        schedule.warmup_steps(length),
        schedule.ends_with_run,
        ["", "heads.*"],
    )


def rates(group: OptimizerGroup, length: RunLength = LENGTH, first: int = 0) -> list[float]:
    """The rate in every step of a run, as the loop advances the schedule."""
    found = []
    for step in range(first, length.steps):
        group.optimizer.step()
        small, large = (options["lr"] for options in group.optimizer.param_groups)
        assert large == pytest.approx(10 * small, rel=1e-12)  # each goes by its own rate
        assert group.learning_rates() == {"train/lr": small, "train/lr[heads.*]": large}
        found.append(small)
        group.advance("step", step + 1)
        if (step + 1) % length.steps_per_epoch == 0:
            group.advance("epoch", step + 1)
    return found


def cosine(share: float) -> float:
    return LR * (1 + math.cos(math.pi * share)) / 2


def epoch_of(step: int) -> int:
    return step // LENGTH.steps_per_epoch


CURVES: dict[str, tuple[Any, str, dict[str, int], Any]] = {
    "cosine by epochs": (COSINE, "epoch", {}, lambda t: cosine(epoch_of(t) / 4)),
    "cosine by steps": (COSINE, "step", {}, lambda t: cosine(t / 20)),
    "cosine of 3 epochs by steps": (
        *(COSINE | {"T_max": "3 epochs"}, "step", {}),
        lambda t: cosine(t / 15),
    ),
    "warm-up of steps": (
        *(COSINE, "step", {"warmup_steps": 4}),
        lambda t: LR * (t + 1) / 5 if t < 4 else cosine((t - 4) / 16),
    ),
    "warm-up of one epoch": (
        *(COSINE, "epoch", {"warmup_epochs": 1}),
        lambda t: LR * (t + 1) / 6 if t < 5 else cosine((epoch_of(t) - 1) / 3),
    ),
    "warm-up that ends inside of an epoch": (
        *(EXPONENTIAL, "epoch", {"warmup_steps": 7}),
        lambda t: LR * (t + 1) / 8 if t < 7 else LR * 0.5 ** (epoch_of(t) - 1),
    ),
}


@pytest.mark.parametrize("name", CURVES)
def test_every_step_has_the_rate_of_the_formula(name: str) -> None:
    options, interval, warmup, formula = CURVES[name]
    expected = [formula(step) for step in range(LENGTH.steps)]
    assert rates(group_of(options, interval, **warmup)) == pytest.approx(expected, rel=1e-12)


def test_a_warm_up_ends_with_the_very_rate_of_the_schedule() -> None:
    options = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 0.1, "total_iters": 99}
    plain = rates(group_of(options, "epoch"))
    assert rates(group_of(options, "epoch", warmup_steps=7))[7:] == plain[7:]


@pytest.mark.parametrize("warmup", [{}, {"warmup_steps": 3}])
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("options", [COSINE, MILESTONES])
def test_a_run_made_longer_goes_on_at_the_rate_of_the_longer_run(
    options: dict[str, Any], interval: str, warmup: dict[str, int]
) -> None:
    longer = group_of(options, interval, LENGTH, **warmup)
    short = group_of(options, interval, RunLength(2, 5), **warmup)
    rates(short, RunLength(2, 5))
    expected = rates(longer)
    goes_on = group_of(options, interval, LENGTH, **warmup)
    assert goes_on.ends_with_run
    goes_on.optimizer.load_state_dict(short.optimizer.state_dict())
    goes_on.scheduler.load_state_dict(short.scheduler.state_dict())
    before, now = goes_on.replay(step=10)
    assert now == expected[10] != before
    assert rates(goes_on, first=10) == expected[10:]


def test_a_diagnosis_of_a_run_made_longer_has_the_rates_of_the_longer_run() -> None:
    """``debug=nonfinite train.epochs=N`` takes the steps that ``train.epochs=N`` takes."""
    short = RunState(toy_model(), [group_of(COSINE, "step", RunLength(2, 5))])
    rates(short.groups[0], RunLength(2, 5))
    short.state.step = 10
    longer = RunState(toy_model(), [group_of(COSINE, "step", LENGTH)])
    content = {**content_of(short), "records": {}, "config": {"train": {"epochs": 2}}}
    restore(longer, content, Path("last.pt"), 4)
    expected = rates(group_of(COSINE, "step", LENGTH))
    assert rates(longer.groups[0], first=10) == expected[10:]


def test_a_plateau_counts_evaluations_after_the_warm_up() -> None:
    """The rule of torch: more than ``patience`` values in a row that are no better."""
    group = group_of(PLATEAU | {"patience": 1, "factor": 0.5}, "evaluation", warmup_steps=2)
    values = [(1, 9.0), (2, 9.0), (3, 5.0), (4, 5.0), (5, 6.0), (6, 4.0), (7, math.nan), (8, 4.0)]
    found = []
    for step, value in values:
        group.optimizer.step()
        group.advance("step", step)
        group.advance("epoch", step)
        group.advance("evaluation", step, value)
        found.append(group.learning_rates()["train/lr"] / LR)
    assert found == pytest.approx([2 / 3, 1, 1, 1, 0.5, 0.5, 0.5, 0.25], rel=1e-12)


WRONG = {
    "`model_scheduler.warmup_epochs` must leave steps to train after the warm-up, got 4 for a run "
    "of 4 epochs of 5 steps; lower it, or set model_scheduler.warmup_epochs=null.": (
        *(COSINE, "epoch", {"warmup_epochs": 4}),
    ),
    "`model_scheduler.warmup_steps` must be a whole number of at least 1 or null, got 0.": (
        *(COSINE, "epoch", {"warmup_steps": 0}),
    ),
    "`model_scheduler` must have one warm-up, got warmup_epochs and warmup_steps; set "
    "model_scheduler.warmup_epochs=null.": (
        *(COSINE, "epoch", {"warmup_epochs": 1, "warmup_steps": 1}),
    ),
    "`model_scheduler.interval` must be evaluation for ReduceLROnPlateau, got 'epoch'; set "
    "model_scheduler.interval=evaluation.": (PLATEAU, "epoch", {}),
    "`model_scheduler.interval` must be step or epoch for ExponentialLR, got 'evaluation'; set "
    "model_scheduler.interval=epoch.": (EXPONENTIAL, "evaluation", {}),
    "`model_scheduler.scheduler.mode` must be train.select_mode (min), got 'max'; set "
    "model_scheduler.scheduler.mode=min.": (PLATEAU | {"mode": "max"}, "evaluation", {}),
    "`model_scheduler.scheduler.T_max` must be in epochs where the schedule advances by epochs, "
    "got '50 steps'; set model_scheduler.interval=step.": (
        *(COSINE | {"T_max": "50 steps"}, "epoch", {}),
    ),
    "`model_scheduler.scheduler.patience` must be a number of evaluations, got '2 epochs'.": (
        *(PLATEAU | {"patience": "2 epochs"}, "evaluation", {}),
    ),
    "`model_scheduler.scheduler.T_max` must be a number of intervals, or a length such as '20 "
    "epochs', '500 steps' or end, got '2 epocs'.": (COSINE | {"T_max": "2 epocs"}, "step", {}),
    "`model_scheduler.scheduler.T_max` has a wrong value": (COSINE | {"T_max": "ende"}, "step", {}),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_schedules_are_refused_in_one_line(message: str) -> None:
    options, interval, warmup = WRONG[message]
    with pytest.raises(ConfigError) as caught:
        group_of(options, interval, **warmup)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
