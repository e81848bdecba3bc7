"""Rows of one method that differ in a component are named by it."""

from dataclasses import asdict

import pytest

from rotograd_cli.config.compose import composing
from rotograd_cli.config.overrides import composed
from rotograd_cli.config.schema import to_train_config
from rotograd_cli.errors import override_value
from rotograd_cli.runs.saved import setting
from rotograd_cli.tables.components import collapsed

PLATEAU = "scheduler@model_scheduler=plateau"
SCHEDULER = "model_scheduler.scheduler"
OWN = {"a._target_": "mine.Net", "a.width": "3", "x": "1"}

NAMES: list[tuple[list[list[str]], list[dict[str, str]]]] = [
    (
        [[], [PLATEAU], ["scheduler@model_scheduler=cosine"]],
        [{"model_scheduler": name} for name in ("constant", "plateau", "cosine")],
    ),
    (  # a value that is not the file's is shown, and one that differs within the component
        [[], [PLATEAU], [PLATEAU, f"{SCHEDULER}.min_lr=0.1", "model_scheduler.warmup_steps=4"]],
        [
            {"model_scheduler": "constant", "model_scheduler.warmup_steps": "null"},
            {
                "model_scheduler": "plateau",
                "model_scheduler.warmup_steps": "null",
                f"{SCHEDULER}.min_lr": "0.0",
            },
            {
                "model_scheduler": "plateau",
                "model_scheduler.warmup_steps": "4",
                f"{SCHEDULER}.min_lr": "0.1",
            },
        ],
    ),
    (
        [["backbone=mlp"], ["backbone=lenet", "seed=3"]],
        [{"backbone": "mlp"}, {"backbone": "lenet"}],
    ),
    (
        [[f"{SCHEDULER}.factor=0.5"], ["train.epochs=3"]],
        [
            {f"{SCHEDULER}.factor": "0.5", "train.epochs": "15"},
            {f"{SCHEDULER}.factor": "1.0", "train.epochs": "3"},
        ],
    ),
]


@pytest.mark.parametrize(("several", "expected"), NAMES)
def test_a_component_is_named_and_its_defaults_are_not(
    several: list[list[str]], expected: list[dict[str, str]]
) -> None:
    with composing():
        configs = [asdict(to_train_config(composed("train", words))) for words in several]
    settings = [
        {key: override_value(value) for key, value in setting(config).items()} for config in configs
    ]
    assert collapsed(settings) == expected


def test_classes_of_the_user_are_named_and_never_alike() -> None:
    other = {**OWN, "a._target_": "other.Net"}
    assert collapsed([OWN, other]) == [{"a": "mine.Net"}, {"a": "other.Net"}]
    wide = {**OWN, "a.width": "4"}
    torch = {"a._target_": "torch.nn.Flatten", "x": "1"}
    assert collapsed([OWN, wide, torch]) == [
        {"a": "Net", "a.width": "3"},
        {"a": "Net", "a.width": "4"},
        {"a": "Flatten"},
    ]
