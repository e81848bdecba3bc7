"""Parameter groups by patterns of names: which parameters, with which options."""

import copy
from typing import Any

import pytest
import torch
from hydra import compose

from rotograd_cli.config.components import Constructors
from rotograd_cli.config.compose import composing
from rotograd_cli.config.schema import TrainConfig, to_train_config
from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.optimizers import described, optimizer_groups
from rotograd_cli.training.schedules import OptimizerGroup, RunLength
from tests.toy import toy_model

WORDS = (
    *("optimizer@model_optimizer=adamw", "scheduler@model_scheduler=step"),
    *("model_scheduler.scheduler.step_size=1", "model_optimizer.lr=0.1"),
    "model_optimizer.weight_decay=0.5",
)


@pytest.fixture(scope="module")
def composed() -> TrainConfig:
    with composing():
        return to_train_config(compose("train", list(WORDS)))


@pytest.fixture
def config(composed: TrainConfig) -> TrainConfig:
    return copy.deepcopy(composed)


def groups_of(config: TrainConfig, model: Any, *groups: dict[str, Any]) -> list[OptimizerGroup]:
    config.parameter_groups = list(groups)
    return optimizer_groups(config, Constructors(config), RunLength(4, 5), model)


def options_by_name(model: Any, groups: list[OptimizerGroup]) -> dict[str, tuple[float, float]]:
    options = {
        id(p): (group["lr"], group["weight_decay"])
        for each in groups
        for group in each.optimizer.param_groups
        for p in group["params"]
    }
    return {name: options[id(p)] for name, p in model.named_parameters()}


def test_rate_and_decay_are_each_of_the_first_pattern_that_sets_it(config: TrainConfig) -> None:
    model = toy_model("rotograd")
    groups = groups_of(
        *(config, model),
        {"pattern": "*.bias", "weight_decay": 0.0},
        {"pattern": "backbone.*", "lr_factor": 0.1},
        {"pattern": "rotations.*", "lr": 0.7},
        {"pattern": "heads.2.*", "lr": 0.01, "weight_decay": 0.25},
    )
    for name, (rate, decay) in options_by_name(model, groups).items():
        rates = {"backbone": 0.01, "rotations": 0.7, "heads.2": 0.01}
        expected = next((r for kind, r in rates.items() if name.startswith(kind)), 0.1)
        assert rate == pytest.approx(expected), name
        otherwise = {"heads.2": 0.25, "rotatio": 0.0}.get(name[:7], 0.5)
        assert decay == (0.0 if name.endswith("bias") else otherwise), name
    assert [each.learning_rates() for each in groups] == [
        {
            "train/lr": 0.1,
            "train/lr[*.bias]": 0.1,
            "train/lr[*.bias & backbone.*]": pytest.approx(0.01),
            "train/lr[*.bias & heads.2.*]": 0.01,
            "train/lr[backbone.*]": pytest.approx(0.01),
            "train/lr[heads.2.*]": 0.01,
        },
        {"train/method_lr": 0.7, "train/method_lr[rotations.*]": 0.7},
    ]
    groups[0].optimizer.step()
    groups[0].advance("epoch", 5)  # each group's own rate times gamma
    rates_after = list(groups[0].learning_rates().values())
    assert rates_after == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.005, 0.005])


def test_the_order_of_patterns_that_set_different_things_does_not_matter(
    config: TrainConfig,
) -> None:
    model = toy_model("rotograd")
    patterns = [{"pattern": "*.bias", "weight_decay": 0.0}, {"pattern": "backbone.*", "lr": 1e-4}]
    one, other = (
        options_by_name(model, groups_of(config, model, *each))
        for each in (patterns, patterns[::-1])
    )
    assert one == other
    assert one["backbone.layers.1.bias"] == (1e-4, 0.0)


def test_a_line_says_how_many_parameters_have_which_options(config: TrainConfig) -> None:
    model = toy_model("rotograd")
    config.model_scheduler["warmup_steps"] = 3
    groups = groups_of(config, model, {"pattern": "backbone.*", "lr": 1e-4})
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model.heads, model.backbone)]
    assert described(groups) == [
        f"Parameter groups of model_optimizer: the others: {sizes[0]:,} parameters with lr=0.1, "
        f"weight_decay=0.5; backbone.*: {sizes[1]:,} parameters with lr=0.0001, weight_decay=0.5."
    ]


def test_without_patterns_the_optimiser_is_what_it_was(config: TrainConfig) -> None:
    config.parameter_groups = None
    model = toy_model("rotograd")
    (network, _) = optimizer_groups(config, Constructors(config), RunLength(4, 5), model)
    plain = torch.optim.AdamW(model.model_parameters(), lr=0.1, weight_decay=0.5)
    (group,) = network.optimizer.param_groups
    assert group["params"] == plain.param_groups[0]["params"]


WRONG: dict[str, tuple[dict[str, Any], ...]] = {
    "`parameter_groups[0].pattern` must match a parameter, got 'heads.0.wieght'; try heads.": (
        {"pattern": "heads.0.wieght", "lr": 1.0},
    ),
    "`parameter_groups[1].pattern` must match a parameter, got 'heads.1.*'; earlier patterns set "
    "all that it would set, move it up or leave it out.": (
        {"pattern": "heads.*", "lr": 1.0},
        {"pattern": "heads.1.*", "lr": 1.0},
    ),
    "`parameter_groups[0]` must have lr or lr_factor, got both; leave one out.": (
        {"pattern": "heads.*", "lr": 1.0, "lr_factor": 1.0},
    ),
    "`parameter_groups[0]` must change something, got the pattern 'heads.*' alone; give it lr, "
    "lr_factor or weight_decay.": ({"pattern": "heads.*"},),
    "`parameter_groups[0].lr` must be at least 0, got -1.0.": ({"pattern": "heads.*", "lr": -1.0},),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_groups_are_refused_in_one_line(config: TrainConfig, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        groups_of(config, toy_model("rotograd"), *WRONG[message])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_schedule_with_rates_of_its_own_is_refused_where_groups_have_theirs(
    config: TrainConfig,
) -> None:
    options = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "_partial_": True}
    options |= {"max_lr": 0.1, "total_steps": "end"}
    config.model_scheduler = {"interval": "step", "scheduler": options}
    slow = {"pattern": "backbone.*", "lr": 1e-5}
    with pytest.raises(ConfigError, match=r"with OneCycleLR, which sets .* got 0.1, 1e-05; leave"):
        groups_of(config, toy_model(), slow)
    groups_of(config, toy_model(), {"pattern": "backbone.*", "weight_decay": 0.0})
    config.model_scheduler["scheduler"]["max_lr"] = [0.1, 1e-5]
    groups = groups_of(config, toy_model(), slow)
    rates = groups[0].learning_rates()
    assert rates["train/lr"] == pytest.approx(1e4 * rates["train/lr[backbone.*]"])


def test_an_option_that_the_optimiser_lacks_is_refused(config: TrainConfig) -> None:
    config.model_optimizer = {"_target_": "torch.optim.Rprop", "_partial_": True, "lr": 0.1}
    with pytest.raises(ConfigError, match="cannot set weight_decay of 'heads"):
        groups_of(config, toy_model(), {"pattern": "heads.*", "weight_decay": 0.1})
