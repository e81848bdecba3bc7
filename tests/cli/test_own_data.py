"""The page on own data works as printed, and so does what takes up a run on own data."""

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import rotograd_cli
from rotograd_cli.training.stepper import Stepper

from .conftest import SMOKE, Cli
from .test_contributing import blocks
from .test_wrong_input import refused

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
PAGE = "docs/own_data.md"


def write(folder: Path, name: str, content: str) -> None:
    path = folder / "conf" / "data" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with what the page prints."""
    (tmp_path / "faces.py").write_text(blocks("python", PAGE)[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    faces, _, fake, office = blocks("yaml", PAGE)
    for name, content in (("faces", faces), ("fake", fake), ("office", office)):
        write(tmp_path, name, content)
    return tmp_path


@pytest.mark.slow
def test_the_examples_of_the_page_train(cli: Cli, folder: Path) -> None:
    commands = blocks("bash", PAGE)[0]
    for line in commands.splitlines():
        result = cli(*shlex.split(line)[1:])
        assert result.code == 0, result.err
    assert "values equal the run's record exactly" in result.out
    own = ("--config-dir", "conf", "train.batch_size=8", "backbone=mlp")
    for data, key in (("fake", "test/thing/accuracy"), ("office", "test/webcam/f1")):
        result = cli("train", *own, f"data={data}", *SMOKE, f"hydra.run.dir={data}")
        assert result.code == 0, result.err
        assert key in rotograd_cli.load_run(folder / data, trust=True).metrics


@pytest.mark.slow
def test_a_parquet_file_is_read_as_the_page_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"x": [[0.5, 1.0]], "y": [2]}).to_parquet(tmp_path / "a.parquet")
    names: dict[str, Any] = {}
    exec(blocks("python", PAGE)[-1], names)
    item = names["parquet"](str(tmp_path / "a.parquet"), ["x", "y"])[0]
    assert torch.equal(item["x"], torch.tensor([0.5, 1.0]))


POINTS = "{{_target_: tests.own_data.Points, num: 24, kind: {kind}}}"
TREE = """
defaults: [torch]
datasets: {{train: {points}, val: {points}, test: {points}}}
tasks: {{label: {{kind: classification, num_outputs: 2}}, again: {{kind: binary, target: label}}}}
inputs: {inputs}
"""
WORDS = (*SMOKE, "--config-dir", "conf", "data=tree", "train.batch_size=8", "hydra.run.dir=run")


def train_on_tree(cli: Cli, folder: Path, inputs: str, backbone: str, kind: str, *more: str) -> Any:
    write(folder, "tree", TREE.format(points=POINTS.format(kind=kind), inputs=inputs))
    (folder / "conf" / "backbone").mkdir(exist_ok=True)
    node = f"_target_: tests.own_data.{backbone}\n_partial_: true\n"
    (folder / "conf" / "backbone" / "own.yaml").write_text(node)
    result = cli("train", *WORDS, "backbone=own", *more)
    assert result.code == 0, result.err
    return rotograd_cli.load_run(folder / "run", trust=True)


def test_a_dictionary_calls_the_backbone_by_keyword(cli: Cli, tmp_path: Path) -> None:
    run = train_on_tree(cli, tmp_path, "{ids: text.ids, mask: text.mask}", "Words", "tree")
    inputs, _ = run.dataset("val")[2]
    assert inputs["ids"].dtype == torch.int64
    one = {name: x.unsqueeze(0) for name, x in inputs.items()}
    with torch.no_grad():
        expected = run.model(**one)[0]
        torch.testing.assert_close(run.task("label")(**one), expected)
    own = ("run=run", "--config-dir", "conf")
    line = refused(cli, tmp_path, "export", *own)
    assert "its backbone must take one tensor, got {ids: [N, 3] of int64, mask: [N, 3]};" in line


@pytest.mark.slow
def test_every_command_takes_a_run_on_a_dictionary(cli: Cli, tmp_path: Path) -> None:
    train_on_tree(cli, tmp_path, "{ids: text.ids, mask: text.mask}", "Words", "tree")
    for command in ("evaluate", "predict", "report"):
        result = cli(command, "run=run", "--config-dir", "conf")
        assert result.code == 0, result.err


def test_pictures_of_bytes_are_refused_with_the_conversion(cli: Cli, tmp_path: Path) -> None:
    points = "{_target_: torchvision.datasets.FakeData, size: 24, image_size: [1, 16, 16]}"
    points = points.replace("}", ", transform: {_target_: torchvision.transforms.PILToTensor}}")
    content = f"defaults: [torch]\ndatasets: {{train: {points}, val: {points}, test: {points}}}\n"
    write(tmp_path, "tree", f"{content}tasks: {{label: {{kind: binary, target: 1}}}}\ninputs: 0\n")
    line = refused(cli, tmp_path, "train", *WORDS, "backbone=lenet")
    assert "of uint8 (" in line
    assert "; write .float() / 255 in the data set, or choose another backbone or data set." in line


def test_what_is_odd_about_the_data_is_said_when_a_run_begins(cli: Cli, tmp_path: Path) -> None:
    points = "{_target_: tests.own_data.Points, num: 24, draws: true}"
    test = "{_target_: tests.own_data.Points, num: 24}"
    splits = f"{{train: {points}, val: {{split_of: train, fraction: 0.5}}, test: {test}}}"
    tasks = "{label: {kind: binary}}"
    content = f"defaults: [torch]\ndatasets: {splits}\ninputs: x\ntasks: {tasks}\n"
    write(tmp_path, "tree", content)
    result = cli("train", *WORDS, "backbone=mlp")
    assert result.code == 0, result.err
    line = "split val is evaluated on examples that Points varies at random; for plain ones give "
    assert f"Note: {line}" in result.err + result.out
    assert (tmp_path / "run" / "train.log").read_text().count(line) == 1
    notes = json.loads((tmp_path / "run" / "summary.json").read_text())["notes"]
    assert any(note.startswith(line) for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_was_stopped_inside_an_epoch_goes_on_exactly(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    points = {"_target_": "tests.own_data.Points", "num": 64, "draws": True}
    content = {
        "defaults": ["torch"],
        "datasets": dict.fromkeys(("train", "val", "test"), points),
        "inputs": "x",
        "tasks": {"label": {"kind": "binary"}, "size": {"kind": "regression"}},
        "num_workers": num_workers,
    }
    write(tmp_path, "points", json.dumps(content))
    words = ("train", "--config-dir", "conf", "data=points", "backbone=mlp", "logger=none")
    options = ("device=cpu", "train.epochs=3", "train.batch_size=8", "train.log_every_steps=1")
    assert cli(*words, *options, "hydra.run.dir=whole").code == 0
    steps = []

    def stop(stepper: Stepper, *arguments: Any) -> None:
        steps.append(take(stepper, *arguments))
        if len(steps) == 11:  # the third step of the second epoch
            signal.raise_signal(signal.SIGINT)

    take = Stepper.take
    monkeypatch.setattr(Stepper, "take", stop)
    assert cli(*words, *options, "hydra.run.dir=parts").code == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert len(steps) == 11
    assert cli("train", "--config-dir", "conf", "resume=parts").code == 0
    whole, parts = (rotograd_cli.load_run(tmp_path / x, trust=True) for x in ("whole", "parts"))
    assert parts.metrics == whole.metrics
    for name, value in whole.model.state_dict().items():
        assert torch.equal(parts.model.state_dict()[name], value), name


def test_a_list_calls_it_by_position_in_micro_batches(cli: Cli, tmp_path: Path) -> None:
    more = ("train.accumulate_steps=2", "data.num_workers=1")
    run = train_on_tree(cli, tmp_path, "[x, text]", "Two", "tree", *more)
    x, text = run.dataset("test")[0][0]
    assert (len(x), sorted(text)) == (2, ["ids", "mask"])


def test_a_collate_of_ones_own_may_pad_each_batch_to_its_size(cli: Cli, tmp_path: Path) -> None:
    collate = "data.collate={_target_: tests.own_data.padded, _partial_: true}"
    run = train_on_tree(cli, tmp_path, "x", "Summed", "dict", collate)
    assert run.metrics["test/label/accuracy"] >= 0
