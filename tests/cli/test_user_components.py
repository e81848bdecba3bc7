"""A user's data and components are used once before training; what is wrong is one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rotograd_cli.training.checkpoint import load_checkpoint
from tests.marks import slow_unless

from .conftest import SMOKE, Cli
from .test_wrong_input import refused

WORDS = (
    *("train", "--config-dir", "conf", "data=faulty", "backbone=mlp", "logger=none", "device=cpu"),
    *("train.epochs=2", "train.batch_size=32", "train.eval_batch_size=16", "hydra.run.dir=run"),
)
REGRESSION, CLASSES, FLAG = "tasks=[size,spread]", "tasks=[label]", "tasks=[flag]"
ALL = "tasks=[size,spread,label,flag]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The configuration files of the components in :mod:`tests.faulty`."""
    targets = {
        "data/faulty": "Faulty",
        "backbone/faulty": "FaultyBackbone",
        "head/faulty": "FaultyHead",
        "method/faulty": "FaultyMethod",
    }
    for name, target in targets.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(f"_target_: tests.faulty.{target}\n_partial_: true\nkind: none\n")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "tasks"),
    [
        *(("none", ALL), ("negative", REGRESSION), ("minus_one", "tasks=[label,flag]")),
        *(("nan_targets", REGRESSION), ("late", REGRESSION), ("unlabelled", "tasks=[size]")),
    ],
)
def test_what_can_be_trained_on_is_trained_on(
    cli: Cli, folder: Path, kind: str, tasks: str
) -> None:
    result = cli(*WORDS, f"data.kind={kind}", tasks)
    assert result.code == 0, result.err
    metrics = json.loads((folder / "run" / "summary.json").read_text())["metrics"]
    undefined = {key for key, value in metrics.items() if not isinstance(value, float)}
    signed = {"val/geomean_loss", "test/geomean_loss"} if kind == "negative" else set()
    assert undefined == signed


DATA = {
    f"absent {REGRESSION}": "split val, task 'spread': at least one label is needed to train "
    "the task and for val/geomean_loss, got none; select by another task with train.select="
    "val/size/loss, or train with tasks=[size].",
    f"unlabelled {REGRESSION}": "split val, task 'spread': at least one label is needed",
    f"untrained {REGRESSION}": "split train, task 'spread': at least one label is needed to train "
    "the task and for val/geomean_loss, got none; train with tasks=[size].",
    f"no_train {REGRESSION}": "split train: at least one example is needed, got 0",
    f"no_val {CLASSES}": "split val: at least one example is needed, got 0; move examples",
    f"no_test {CLASSES}": "split test: at least one example is needed, got 0",
    f"column {REGRESSION}": "split train, task 'size': the target must have shape [32], got [32, "
    "1]; write target.squeeze(-1)",
    f"float_labels {CLASSES}": "split train, task 'label': the target must hold whole numbers "
    "(torch.int64), got torch.float32; write target.long().",
    f"label_3 {CLASSES}": "split train, task 'label': the target must be a class in 0..2, or -1 "
    "for no label, got 3 in ",
    f"last_label {CLASSES}": "must be a class in 0..2, or -1 for no label, got 7 in 1 of 32",
    f"flag_2 {FLAG}": "task 'flag': the target must be 0 or 1, or -1 for no label, got 2 in ",
    f"signs {FLAG}": "got -1 and 1 without any 0; if -1 means no, write (target > 0).float().",
    f"infinite {REGRESSION}": "task 'size': the target must be a number, or NaN for no label, got "
    "inf in 11 of 32",
    f"float64 {REGRESSION}": "split train: inputs must be torch.float32, as the networks are, got "
    "torch.float64; write inputs.to(torch.float32).",
    f"uint8 {REGRESSION}": "got torch.uint8; write inputs.to(torch.float32) / 255.",
    f"nan_inputs {REGRESSION}": "split train: inputs must be finite, got NaN or infinity in 11 of "
    "32 examples; ",
    f"nan_test_inputs {REGRESSION}": "split test: inputs must be finite, got NaN or infinity in 1",
    f"wide {REGRESSION}": "inputs of 32 examples must have shape [32, 8], got [32, 16]",
    f"numpy {REGRESSION}": "inputs must be a tensor, got a ndarray",
    f"list {REGRESSION}": "split train, task 'size': the target must be a tensor, got a list",
    f"short {REGRESSION}": "task 'size': the target of 32 examples must have a first axis of 32, "
    "got shape [31]",
    f"tuple {REGRESSION}": "`batch` must return a Batch with targets by task, got a tuple",
    f"broken {REGRESSION}": "split test: the data set fails (LookupError: no such frame, faulty.py",
    f"broadcasting {REGRESSION}": "split train, task 'spread': prediction and target must have one "
    "shape, got [32, 1] against [32], which is broadcast to [32, 32]; write prediction.squeeze(1)",
    f"broadcasting_with_a_warning {REGRESSION}": "task 'spread': the loss fails (UserWarning: Using"
    " a target size",
    f"not_reduced {REGRESSION}": "task 'spread': the loss must be a finite scalar tensor that "
    "depends on the prediction, got tensor([",
    f"detached {REGRESSION}": "leave out detach() and item(), and leave out NaN in the target.",
    f"a_number {REGRESSION}": "scalar tensor that depends on the prediction, got 0.",
    f"writing {REGRESSION}": "task 'spread': the loss must leave the target as it is, which the "
    "metrics see too, but writes into it; write target = target.clone() first.",
    f"failing {REGRESSION}": "task 'spread': the loss fails (KeyError: 'scale', faulty.py line ",
    f"nan_and_own_loss {REGRESSION}": "got tensor(nan",
    f"unbatchable {REGRESSION}": "a training step: the loss of the tasks with batchable=True fails "
    "(RuntimeError: vmap: ",
    f"count {REGRESSION}": "task 'spread': the labels cannot be counted (AttributeError: 'int' "
    "object has no attribute 'double'",
    f"metric {REGRESSION}": "task 'spread': the metric 'fit' fails (AttributeError: 'Tensor' object"
    " has no attribute 'no_such_thing'",
}


@pytest.mark.parametrize("case", slow_unless([*DATA][::3], DATA))
def test_wrong_data_are_refused_before_anything_is_written(
    cli: Cli, folder: Path, case: str
) -> None:
    kind, tasks = case.split()
    line = refused(cli, folder, *WORDS, f"data.kind={kind}", tasks)
    assert line.startswith("rotograd: Data set 'faulty', split ")
    assert DATA[case] in line


def test_the_remedy_for_a_task_without_labels_works(cli: Cli, folder: Path) -> None:
    for remedy in (("train.select=val/size/loss", REGRESSION), ("tasks=[size]",)):
        folder_of_its_own = f"hydra.run.dir=run_{len(remedy)}"
        result = cli(*WORDS, "data.kind=absent", *remedy, folder_of_its_own)
        assert result.code == 0, result.err


COMPONENTS = {
    "data.kind=init": "`data` cannot be built (KeyError: 'split.csv', faulty.py line ",
    "backbone=faulty backbone.kind=init": "`backbone` cannot be built (RuntimeError: no weights, ",
    "backbone=faulty backbone.kind=dict": "The backbone must return features, a tensor with a first"
    " axis N, or a tuple that begins with them, got a dict;",
    "backbone=faulty backbone.kind=sum": "The backbone must return features of shape [N, ...], got "
    "[] for one example",
    "backbone=faulty backbone.kind=train": "a training step: `backbone` fails (NotImplementedError:"
    " only for evaluation, faulty.py line ",
    "head=faulty head.kind=dict": "The head of task 'size' must return a tensor, or a tuple that "
    "begins with it, got a dict; check `head`, or set ++heads.size.KEY="
    "VALUE for this task.",
    "head=faulty head.kind=fails": "The head of task 'size' cannot take features of ",
    "head=faulty head.kind=train": "a training step: the `head` of task 'size' fails "
    "(ZeroDivisionError: by zero, faulty.py line ",
    "method=faulty method.kind=backward": "a training step: `method` fails (AttributeError: "
    "no weights yet, faulty.py line ",
    "method=faulty method.kind=end_epoch": "`method` fails (IndexError: no epoch, faulty.py line ",
}


@pytest.mark.parametrize("words", COMPONENTS)
def test_components_that_fail_are_named(cli: Cli, folder: Path, words: str) -> None:
    line = refused(cli, folder, *WORDS, REGRESSION, *words.split())
    assert COMPONENTS[words] in line


NO_COMPONENTS = {
    ("backbone", "NoNetwork"): "`backbone` must be of class Module, got NoNetwork; let NoNetwork",
    ("head", "NoNetwork"): "`head` must be of class Module, got NoNetwork",
    ("method", "NoNetwork"): "`method` must be of class MultiTaskMethod or Rule, got NoNetwork",
    ("data", "NoNetwork"): "`data` must be of class MultiTaskDataset, got NoNetwork",
    ("method", "UninitialisedRule"): "begin its own with super().__init__().",
}


@pytest.mark.parametrize(("group", "target"), NO_COMPONENTS)
def test_what_is_no_component_is_refused(cli: Cli, folder: Path, group: str, target: str) -> None:
    path = folder / "conf" / group / "none.yaml"
    path.write_text(f"_target_: tests.faulty.{target}\n_partial_: true\nkind: none\n")
    words = [*WORDS, f"{group}=none"]
    assert NO_COMPONENTS[group, target] in refused(cli, folder, *words)


STEPS = {
    ("optimizer@model_optimizer=mine", "torch.optim.LBFGS"): "step() of `model_optimizer` fails "
    "(TypeError: LBFGS.step() missing 1 required positional argument: 'closure'); correct it or "
    "choose another.",
    ("optimizer@model_optimizer=mine", "tests.faulty.ClosureOptimizer"): "step() of `model_"
    "optimizer` fails (AssertionError: a closure is required, faulty.py line ",
    ("optimizer@model_optimizer=mine", "torch.optim.SparseAdam"): "step() of `model_optimizer` "
    "fails (RuntimeError: SparseAdam does not support dense gradients",
    ("scheduler@model_scheduler=mine", "torch.optim.lr_scheduler.ReduceLROnPlateau"): "`model_"
    "scheduler.interval` must be evaluation for ReduceLROnPlateau, got 'epoch'; set "
    "model_scheduler.interval=evaluation.",
    ("scheduler@model_scheduler=mine", "torch.optim.lr_scheduler.OneCycleLR"): "`model_scheduler."
    "scheduler` ends after 1 steps, but the run takes 2; set total_steps=2.",
}


@pytest.mark.parametrize("choice", STEPS, ids=lambda choice: choice[1].rpartition(".")[2])
def test_optimisers_and_schedules_that_need_more_than_a_step_are_refused(
    cli: Cli, folder: Path, choice: tuple[str, str]
) -> None:
    word, target = choice
    kind = word.partition("@")[0]
    node = f"_target_: {target}\n_partial_: true\n"
    if kind == "scheduler":
        more = "max_lr: 0.1, total_steps: 1" if "OneCycle" in target else ""
        node = f"interval: epoch\nscheduler: {{_target_: {target}, _partial_: true, {more}}}\n"
    path = folder / "conf" / kind / "mine.yaml"
    path.parent.mkdir()
    path.write_text(node)
    assert STEPS[choice] in refused(cli, folder, *WORDS, REGRESSION, word)


SETTINGS = {
    "normalised": ("backbone=lenet", "method=rotograd"),
    "random": ("method=rlw", "backbone=mlp"),
    "stateful": ("method=famo", "backbone=mlp", "scheduler@model_scheduler=cosine"),
}


@pytest.mark.parametrize("setting", slow_unless([*SETTINGS][:1], SETTINGS))
def test_a_run_has_the_numbers_that_it_has_without_the_pass(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    words = ("train", *SMOKE, *SETTINGS[setting])
    assert cli(*words, "hydra.run.dir=with").code == 0
    monkeypatch.setattr("rotograd_cli.runs.building.dry_pass", lambda *_: None)
    assert cli(*words, "hydra.run.dir=without").code == 0
    states = []
    for name in ("with", "without"):
        last = load_checkpoint(tmp_path / name / "checkpoints" / "last.pt")
        del last["state"]["wall_s"], last["state"]["train_s"], last["state"]["data_s"]
        del last["records"], last["config"]
        states.append(last)
    assert _equal(*states)


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)
