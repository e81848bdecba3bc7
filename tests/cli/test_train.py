"""Runs: what they write, that they repeat, and that an evaluation finds the same numbers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.records import records

from .conftest import CHECKOUT, SMOKE, Cli

METHODS = ("vanilla", "rotateonly", "rotograd", "rotogradnorm")


def summary(run: Path) -> dict[str, Any]:
    content = json.loads((run / "summary.json").read_text())
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_a_complete_directory(cli: Cli, tmp_path: Path, method: str) -> None:
    result = cli("train", *SMOKE, f"method={method}")
    assert result.code == 0, result.err
    (run,) = (tmp_path / "outputs" / "multidigits" / method).iterdir()
    assert f"Run directory: {run.relative_to(tmp_path)}" in result.out
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    bases = {name for name in files if name.startswith("checkpoints/bases.")}
    assert len(bases) == (method != "vanilla")
    assert files - bases == {
        ".lock",
        "config.yaml",
        "metrics.jsonl",
        "summary.json",
        "train.log",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
    }
    keys = {key for record in records(run) for key in record}
    assert {"step", "epoch", "train/left/loss", "val/left/accuracy", "test/sum/mse"} <= keys
    assert all(key.count("/") <= 3 for key in keys)  # train/TASK/TASK/cosine
    content = summary(run)
    assert content["status"] == "finished"
    assert (content["selected_epoch"], content["epochs"], content["steps"]) == (1, 1, 2)
    assert {"val/geomean_loss", "test/geomean_loss", "test/parity/f1"} <= set(content["metrics"])
    assert content["num_parameters"]["backbone"] > 0
    assert (content["num_parameters"]["method"] == 0) == (method == "vanilla")
    assert content["wall_s"] >= content["train_s"] > 0
    assert torch.__version__.startswith(content["versions"]["torch"])
    assert content["device"].startswith("cpu")
    assert content["protocol"].startswith("epoch selected by val/geomean_loss (min)")
    log = (run / "train.log").read_text()
    assert "epoch 1/1  val/geomean_loss" in log
    assert "test of epoch 1" in log
    assert {record["epoch"] for record in records(run)} == {1}
    assert {"commit", "seed", "overrides", "data_fingerprint"} <= set(content)
    for name in ("best", "last"):
        state = torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)
        assert state["state"]["step"] == 2
    assert method in (run / "train.log").read_text().lower().replace("mtl", "")


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_evaluation_equals_the_record_exactly(cli: Cli, smoke_run: Path, split: str) -> None:
    result = cli("evaluate", "run=run", f"split={split}")
    assert result.code == 0, result.err
    assert "All 12 values equal the run's record exactly." in result.out
    assert f"{split}/left/accuracy" in result.out


def test_an_evaluation_of_the_last_checkpoint_equals_the_last_record(cli: Cli) -> None:
    words = ("hydra.run.dir=run", "train.epochs=2", "model_optimizer.lr=0")  # epoch 1 is selected
    assert cli("train", *SMOKE, *words).code == 0
    assert json.loads(Path("run/summary.json").read_text())["selected_epoch"] == 1
    last = cli("evaluate", "run=run", "checkpoint=last", "split=val")
    assert "All 12 values equal the run's record exactly." in last.out
    assert "recorded no metrics" in cli("evaluate", "run=run", "checkpoint=last").out


def test_an_evaluation_writes_nothing(cli: Cli, smoke_run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in smoke_run.parent.rglob("*")}
    assert cli("evaluate", "run=run", "checkpoint=last", "split=train").code == 0
    assert {p: p.stat().st_mtime_ns for p in smoke_run.parent.rglob("*")} == before


def test_an_evaluation_of_changed_weights_says_that_the_values_differ(
    cli: Cli, smoke_run: Path
) -> None:
    path = smoke_run / "checkpoints" / "best.pt"
    content = torch.load(path, weights_only=True)
    content["model"]["backbone.linear.bias"] += 1
    torch.save(content, path)
    result = cli("evaluate", "run=run")
    assert result.code == 0
    assert "differ from the run's record" in result.out


def test_the_same_seed_repeats_bit_for_bit_and_another_does_not(cli: Cli, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert cli("train", *SMOKE, f"hydra.run.dir={name}", f"seed={seed}").code == 0
    first, again, other = (records(tmp_path / name) for name in "abc")
    assert first == again
    assert first != other


def test_chosen_tasks_are_the_only_ones(cli: Cli, tmp_path: Path) -> None:
    result = cli("train", *SMOKE, "tasks=[left,right]", "hydra.run.dir=run")
    assert result.code == 0, result.err
    content = summary(tmp_path / "run")
    assert content["tasks"] == ["left", "right"]
    assert not any("sum" in key or "pixels" in key for key in content["metrics"])


def test_accumulation_takes_the_same_number_of_steps_and_is_close_to_whole_batches(
    cli: Cli, tmp_path: Path
) -> None:
    for num in (1, 4):
        words = ("method=vanilla", f"train.accumulate_steps={num}", f"hydra.run.dir={num}")
        assert cli("train", *SMOKE, *words).code == 0
    whole, parts = summary(tmp_path / "1"), summary(tmp_path / "4")
    assert whole["steps"] == parts["steps"] == 2
    assert parts["metrics"] == pytest.approx(whole["metrics"], rel=1e-4)  # float32 sums reordered


def test_a_head_of_its_own_for_one_task(cli: Cli, tmp_path: Path) -> None:
    result = cli("train", *SMOKE, "+heads.sum.hidden=[7]", "hydra.run.dir=run")
    assert result.code == 0, result.err
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert state["heads.2.0.weight"].shape == (7, 50)  # sum is the third task
    assert state["heads.1.0.weight"].shape == (50, 50)


def test_values_may_refer_to_each_other(cli: Cli, tmp_path: Path) -> None:
    word = "model_optimizer.lr=${method_optimizer.lr}"
    result = cli("train", *SMOKE, word, "hydra.run.dir=run")
    assert result.code == 0, result.err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model_optimizer"]["lr"] == config["method_optimizer"]["lr"]
    assert word in summary(tmp_path / "run")["overrides"]


def test_a_run_is_never_written_over_another(cli: Cli, smoke_run: Path) -> None:
    before = {p: p.read_bytes() for p in smoke_run.rglob("*") if p.is_file()}
    for words in (("hydra.run.dir=run",), ("-m", "hydra.sweep.dir=.", "hydra.sweep.subdir=run")):
        result = cli("train", *SMOKE, *words)
        assert result.code == 2
        assert "already" in result.err
        assert "run" in result.err
    assert {p: p.read_bytes() for p in smoke_run.rglob("*") if p.is_file()} == before


def test_cfg_job_prints_the_experiment_and_runs_nothing(cli: Cli, tmp_path: Path) -> None:
    result = cli("train", "experiment=multimnist", "--cfg", "job")
    assert result.code == 0, result.err
    content = yaml.safe_load(result.out)
    assert content["data"]["_target_"] == "rotograd_cli.data.multimnist.MultiMNIST"
    assert list(tmp_path.iterdir()) == []


def test_a_batch_can_be_learned_by_heart(cli: Cli, tmp_path: Path) -> None:
    short = ("train.epochs=60", "train.batch_size=32", "model_optimizer.lr=1e-2")
    words = ("debug=overfit", "logger=none", "device=cpu", "data.partners=1", *short)
    result = cli("train", *words, "tasks=[left,right]", "hydra.run.dir=run")
    assert result.code == 0, result.err
    metrics = summary(tmp_path / "run")["metrics"]
    assert metrics["train/left/accuracy"] == 1.0
    assert metrics["train/right/accuracy"] == 1.0


FOO = '''
"""Half of the plain sum, and a method parameter."""
from rotograd_cli.methods.rule import Weighting


class Foo(Weighting):
    """The sum of the task gradients times a strength.

    Args:
        strength: Factor.
    """

    def __init__(self, *, strength: float):
        super().__init__()
        self.strength = strength

    def weights(self, s):
        return self.strength * s.present
'''
FOO_YAML = """# Foo: the sum of the task gradients times a strength.
_target_: foo_method.Foo
_partial_: true
strength: 1.0 # factor, > 0
"""


@pytest.fixture
def foo(tmp_path: Path) -> Path:
    (tmp_path / "foo_method.py").write_text(FOO)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "foo.yaml").write_text(FOO_YAML)
    return tmp_path


def test_a_method_of_ones_own_is_one_file_and_one_yaml(
    cli: Cli, foo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(foo))
    words = ("train", *SMOKE, "--config-dir", "conf")
    assert cli(*words, "method=foo", "hydra.run.dir=foo").code == 0
    assert cli(*words, "method=vanilla", "hydra.run.dir=vanilla").code == 0
    assert summary(foo / "foo")["method"] == "Foo"
    # with strength 1 it is vanilla training, up to the order of float32 additions
    ours, theirs = summary(foo / "foo")["metrics"], summary(foo / "vanilla")["metrics"]
    assert ours == pytest.approx(theirs, rel=1e-4)
    for own in (("--config-dir", "conf"), ("trust=true",)):
        assert "equal the run's record exactly" in cli("evaluate", "run=foo", *own).out


def test_a_misspelt_key_of_ones_own_method_is_suggested(cli: Cli, foo: Path) -> None:
    words = ("--config-dir", "conf", "method=foo", "method.strenth=2")
    result = cli("train", *SMOKE, *words)
    assert result.code == 2
    assert result.err == "rotograd: `method.strenth` is not a key; did you mean method.strength?\n"


@pytest.mark.slow
def test_ones_own_method_is_found_on_the_path_by_the_real_program(foo: Path) -> None:
    words = ("--config-dir", "conf", "method=foo", *SMOKE, "hydra.run.dir=run")
    result = subprocess.run(
        [sys.executable, "-m", "rotograd_cli", "train", *words],
        cwd=foo,
        env={"PYTHONPATH": f"{foo}:{CHECKOUT}", "PATH": "", "HOME": str(foo)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert summary(foo / "run")["method"] == "Foo"


PRETRAINED = '''
"""A backbone that starts from a file."""
from pathlib import Path
from rotograd_cli.errors import DatasetError
from rotograd_cli.models.backbones.mlp import MLP


class Pretrained(MLP):
    def __init__(self, *, input_shape, pretrained: bool):
        super().__init__(input_shape=input_shape, hidden=[], num_features=4)
        if pretrained and not Path("weights").exists():
            raise DatasetError("weights are not there")
'''


def test_evaluation_needs_no_pretrained_weights(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf" / "backbone").mkdir(parents=True)
    target = "_target_: pretrained_example.Pretrained\n_partial_: true\npretrained: true\n"
    (tmp_path / "conf" / "backbone" / "pretrained.yaml").write_text(target)
    (tmp_path / "pretrained_example.py").write_text(PRETRAINED)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "weights").touch()
    words = ("--config-dir", "conf", "backbone=pretrained", *SMOKE, "hydra.run.dir=run")
    result = cli("train", *words)
    assert result.code == 0, result.err
    (tmp_path / "weights").unlink()
    result = cli("evaluate", "run=run", "--config-dir", "conf")
    assert result.code == 0, result.err
    assert "equal the run's record exactly" in result.out
