"""Synthetic: what its seed decides, the range of its targets, the errors of its options."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rotograd_cli.data.base import Batch, Split
from rotograd_cli.data.synthetic import Synthetic
from rotograd_cli.errors import ConfigError

SPLITS: tuple[Split, ...] = ("train", "val", "test")
OPTIONS: dict[str, Any] = {
    "data_dir": Path("absent"),
    "tasks": None,
    "device": torch.device("cpu"),
    "input_shape": [2, 3],
    "num_tasks": 2,
    "kind": "classification",
    "num_outputs": 4,
    "map_shape": None,
    "num_train": 2_000,
    "num_val": 20,
    "num_test": 30,
    "seed": 0,
}
KINDS: dict[str, dict[str, Any]] = {
    "classification": {},
    "binary": {"kind": "binary", "num_outputs": 1},
    "regression": {"kind": "regression", "num_outputs": 1},
    "map": {"kind": "map", "num_outputs": 3, "map_shape": [2, 4]},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def synthetic(kind: str = "classification", /, **changes: Any) -> Synthetic:
    return Synthetic(**{**OPTIONS, **KINDS[kind], **changes})


def everything(dataset: Synthetic, split: Split) -> Batch:
    return dataset.batch(split, torch.arange(dataset.num_examples(split)))


@every_kind
def test_seed_alone_decides_every_value(kind: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = synthetic(kind)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, other = synthetic(kind), synthetic(kind, seed=1)
    for split in SPLITS:
        a, b, c = (everything(dataset, split) for dataset in (first, second, other))
        assert torch.equal(a.inputs, b.inputs)
        assert not torch.equal(a.inputs, c.inputs)
        for name in ("task_0", "task_1"):
            assert torch.equal(a.targets[name], b.targets[name])
            assert not torch.equal(a.targets[name], c.targets[name])
        assert not torch.equal(a.targets["task_0"], a.targets["task_1"])
    assert first.fingerprint == second.fingerprint != other.fingerprint


@every_kind
def test_chosen_tasks_keep_their_values(kind: str) -> None:
    dataset, chosen = synthetic(kind), synthetic(kind, tasks=["task_1"])
    batch, expected = everything(chosen, "val"), everything(dataset, "val")
    assert list(batch.targets) == ["task_1"]
    assert torch.equal(batch.inputs, expected.inputs)
    assert torch.equal(batch.targets["task_1"], expected.targets["task_1"])


@every_kind
def test_sizes_are_those_asked_for(kind: str) -> None:
    dataset = synthetic(kind)
    for split, num in zip(SPLITS, (2_000, 20, 30), strict=True):
        batch = everything(dataset, split)
        assert batch.inputs.shape == (num, 2, 3)
        for task in dataset.tasks:
            dense = (3, 2, 4) if kind == "map" else ()
            assert batch.targets[task.name].shape == (num, *dense)
            assert task.map_shape == dense[1:]
            assert task.num_outputs == {**OPTIONS, **KINDS[kind]}["num_outputs"]


def test_classes_and_coins_are_uniform_and_numbers_are_standard_normal() -> None:
    # 2,000 examples: a share is known to 0.011, a mean to 0.022, five of these are allowed
    classes = everything(synthetic(), "train").targets["task_0"]
    assert classes.dtype == torch.int64
    assert torch.bincount(classes).div(2_000).sub(1 / 4).abs().max() < 0.055
    coins = everything(synthetic("binary"), "train").targets["task_0"]
    assert set(coins.tolist()) == {0.0, 1.0}
    assert abs(float(coins.mean()) - 1 / 2) < 0.055
    for numbers in (
        everything(synthetic("regression"), "train").targets["task_0"],
        everything(synthetic("map"), "train").targets["task_0"],
        everything(synthetic(), "train").inputs,
    ):
        assert abs(float(numbers.mean())) < 0.11
        assert float(numbers.std()) == pytest.approx(1, abs=0.08)


def test_splits_share_no_input() -> None:
    dataset = synthetic()
    rows = torch.cat([everything(dataset, split).inputs for split in SPLITS]).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)


BAD_OPTIONS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("binary", {"num_outputs": 2}, "must be 1 for kind=binary, got 2"),
    ("regression", {"num_outputs": 3}, "must be 1 for kind=regression, got 3"),
    ("classification", {"num_outputs": 1}, "at least 2 for kind=classification, got 1"),
    ("map", {"num_outputs": 0}, "`num_outputs` must be at least 1, got 0"),
    ("map", {"map_shape": None}, "height and width of the features for kind=map, got None; set"),
    ("map", {"map_shape": [4, 0]}, "`map_shape` must be at least 1, got 0"),
    ("binary", {"map_shape": [4, 4]}, r"must be null for kind=binary, got \[4, 4\]"),
    ("binary", {"kind": "dense"}, "classification or binary or regression or map, got 'dense'"),
    ("binary", {"num_tasks": 0}, "`num_tasks` must be at least 1, got 0"),
    ("binary", {"num_test": 0}, "`num_test` must be at least 1, got 0"),
    ("binary", {"input_shape": []}, r"`data.input_shape` must hold positive sizes, got \[\]"),
    ("binary", {"input_shape": [3, 0]}, "`input_shape` must be at least 1, got 0"),
    ("binary", {"seed": -1}, "`seed` must be at least 0, got -1"),
    ("binary", {"tasks": ["left"]}, "got 'left'; choose from task_0, task_1"),
)


def test_bad_option_is_refused_in_one_line() -> None:
    for kind, changes, message in BAD_OPTIONS:
        with pytest.raises(ConfigError, match=message) as caught:
            synthetic(kind, **changes)
        assert "\n" not in str(caught.value)
