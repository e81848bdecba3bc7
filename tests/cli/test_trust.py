"""Run directories from somebody else: no command runs what they name or hold."""

import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from rotograd_cli.training.checkpoint import load_checkpoint
from tests.marks import slow_unless

from .conftest import Cli
from .test_attack_runs import TINY

HUB = "import pathlib\ndef net(**values):\n    pathlib.Path('hacked').touch()\n"
EVIL = """
import pathlib
pathlib.Path('hacked').touch()
from rotograd_cli.models.backbones.mlp import MLP as Net
"""
MAKE = {"_target_": "tempfile.mkdtemp", "prefix": "hacked", "dir": "."}


@pytest.fixture
def stranger(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A finished run in ``run``, and code that is found and leaves ``hacked`` behind."""
    result = cli("train", *TINY, "hydra.run.dir=run")
    assert result.code == 0, result.err
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text(HUB)
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "run"
    sys.modules.pop("evil", None)


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the run's configuration, and those of its checkpoints with it."""
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config, sort_keys=False))


HUB_NET = {
    "_target_": "torch.hub.load",
    "repo_or_dir": "hub",
    "source": "local",
    "model": "net",
    "trust_repo": True,
}
# what would run where a command builds it, as trust=true shows
RUN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a module on the path": lambda c: c["backbone"].update(_target_="evil.Net"),
    "torch.hub": lambda c: c.update(backbone=HUB_NET),
    "torch.hub through torch.nn": lambda c: c.update(
        backbone={**HUB_NET, "_target_": "torch.nn.modules.module.torch.hub.load"}
    ),
    "inside a component": lambda c: c.update(data={"_target_": "builtins.dict", "x": MAKE}),
    "in a list": lambda c: c.update(data={"_target_": "builtins.dict", "x": [[MAKE]]}),
}
# what other checks would stop today
OTHERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "os through this package": lambda c: c.update(
        data={"_target_": "rotograd_cli.cli.os.mkdir", "path": "hacked"}
    ),
    "among positional arguments": lambda c: c.update(
        backbone={"_target_": "torch.nn.Sequential", "_args_": [MAKE]}
    ),
    "a head of one task": lambda c: c.update(heads={"task_0": {"hidden": [MAKE]}}),
    "an optimiser": lambda c: c["model_optimizer"].update(lr=MAKE),
    "a schedule": lambda c: c["model_scheduler"]["scheduler"].update(factor=MAKE),
    "a file to write": lambda c: c["method"].update(
        burn_in_period={"_target_": "rotograd_cli.tracking.jsonl.JsonlTracker", "path": "hacked"}
    ),
}
COMMANDS = (("evaluate", "run=run"), ("train", "resume=run"))
DIAGNOSIS = ("train", "resume=run", "debug=nonfinite")


def assert_refused(cli: Cli, tmp_path: Path, *words: str) -> str:
    """Exit code 2, one line, and nothing run; the line."""
    before = contents(tmp_path)
    result = cli(*words)
    assert result.code == 2, (words, result)
    assert len(result.err.strip().splitlines()) == 1, result.err
    assert result.err.startswith("rotograd: ")
    assert contents(tmp_path) == before
    return result.err


def hacked(folder: Path) -> bool:
    return any(folder.glob("hacked*"))


def contents(folder: Path) -> dict[str, bytes]:
    """All files, but for those that Python leaves beside a module."""
    files = [p for p in folder.rglob("*") if "__pycache__" not in p.parts]
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in files}


@pytest.mark.parametrize("name", slow_unless([*RUN][:2], [*RUN, *OTHERS]))
def test_a_strangers_configuration_runs_nothing(
    cli: Cli, stranger: Path, tmp_path: Path, name: str
) -> None:
    edit(stranger, {**RUN, **OTHERS}[name])
    for words in (*COMMANDS, DIAGNOSIS):
        line = assert_refused(cli, tmp_path, *words)
        assert "run/config.yaml must be" in line
        assert "trust=true to run it anyway" in line
    assert cli("table", "runs=run").code == 0  # reads, and builds nothing
    line = assert_refused(cli, tmp_path, "train", *TINY, "resume=auto", "hydra.run.dir=run")
    assert "holds a run of another configuration" in line
    assert not hacked(tmp_path)
    if name in OTHERS:
        return
    with suppress(Exception):  # what a stranger's component does here is no matter
        cli("evaluate", "run=run", "trust=true")
    assert hacked(tmp_path)


@pytest.mark.slow
def test_a_strangers_logger_is_built_by_no_command(
    cli: Cli, stranger: Path, tmp_path: Path
) -> None:
    tracker = {"_target_": "rotograd_cli.tracking.jsonl.JsonlTracker", "path": "hacked"}
    wandb = {"_target_": "rotograd_cli.tracking.wandb.WandbTracker", "mode": tracker}
    summary = json.loads((stranger / "summary.json").read_text())
    for logger in ({"_target_": "evil.Net"}, MAKE, tracker, wandb):
        edit(stranger, lambda c, logger=logger: c.update(logger=logger))
        (stranger / "summary.json").write_text(json.dumps(summary))
        evaluated = cli("evaluate", "run=run")
        assert evaluated.code == 0, evaluated.err
        # the logger is no part of what a run is found by: the command line's own is built
        assert cli("train", *TINY, "resume=auto", "hydra.run.dir=run").code == 0
        (stranger / "summary.json").unlink()
        assert_refused(cli, tmp_path, "train", "resume=run")
        assert not hacked(tmp_path)
    assert cli("train", "resume=run", "logger=none").code == 0
    assert not hacked(tmp_path)


TEXTS: dict[str, str] = {
    "a tag of Python": "tags: !!python/object/apply:os.mkdir [hacked]\n",
    "a value that repeats": "x: &x [1]\ntags: [*x, *x]\n",
    "an interpolation": "tags: ['${oc.env:SECRET}']\n",
    "a resolver that builds": "seed: ${oc.create:{_target_:os.mkdir,path:hacked}}\n",
    "a depth": "tags: " + "[" * 3000 + "]" * 3000 + "\n",
    "a length": "# " + "x" * 2_000_000 + "\n",
}


@pytest.mark.slow
def test_a_strangers_yaml_resolves_nothing(
    cli: Cli, stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "12345")
    lines = (stranger / "config.yaml").read_text().splitlines(keepends=True)
    kept = "".join(x for x in lines if not x.startswith(("tags:", "seed:")))
    for name, text in TEXTS.items():
        (stranger / "config.yaml").write_text(kept + text)
        for words in (*COMMANDS, ("evaluate", "run=run", "trust=true")):
            line = assert_refused(cli, tmp_path, *words)
            assert "config.yaml" in line, name
            assert "12345" not in line
            assert len(line) < 700
        cli("table", "runs=run")
    assert not hacked(tmp_path)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    cli: Cli, stranger: Path, tmp_path: Path
) -> None:
    (stranger / "config.yaml").unlink()
    os.mkfifo(stranger / "config.yaml")
    for words in (*COMMANDS, ("table", "runs=run")):
        result = cli(*words)
        assert result.code == 2 or words[0] == "table", words


class Hostile:
    """Runs code when it is read by a pickle that trusts."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hacked",)


def legacy(path: Path, content: Any) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content))


def script(path: Path, content: Any) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def whole_model(path: Path, content: Any) -> None:
    torch.save(nn.Linear(2, 2), path)


def save(path: Path, content: Any) -> None:
    torch.save(content, path)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_strangers_checkpoint_runs_nothing_and_no_message_advises_to_run_it(
    cli: Cli, stranger: Path, tmp_path: Path
) -> None:
    (stranger / "summary.json").unlink()
    folder = stranger / "checkpoints"
    content = load_checkpoint(folder / "last.pt")
    zoo: list[tuple[Callable[[Path, Any], None], Any]] = [
        (save, {**content, "state": Hostile()}),
        (save, {**content, "model": Hostile()}),
        (save, Hostile()),
        (legacy, {**content, "model": Hostile()}),
        (plain, Hostile()),
        (script, None),
        (whole_model, None),
    ]
    for write, value in zoo:
        for name in ("best", "last", "last.previous"):
            write(folder / f"{name}.pt", value)
        for words in (*COMMANDS, ("evaluate", "run=run", "checkpoint=last"), DIAGNOSIS):
            result = cli(*words)
            assert result.code == 2
            assert "Traceback" not in result.err
            assert "cannot be read as a checkpoint" in result.err
            for advice in ("weights_only", "weights-only", "safe_globals", "arbitrary code"):
                assert advice not in result.err + result.out
        assert not hacked(tmp_path)


@dataclass
class Thing:
    """No tensor, number or text."""


@pytest.mark.slow
def test_a_checkpoint_of_other_content_is_refused_in_one_line(
    cli: Cli, stranger: Path, tmp_path: Path
) -> None:
    folder = stranger / "checkpoints"
    content = load_checkpoint(folder / "last.pt")
    for key, value in (
        ("model", 3),
        ("model", {"x": 1}),
        ("model", dict.fromkeys(content["model"], "text")),
        ("model", {1: torch.zeros(2)}),
        ("model", [torch.zeros(2)]),
        ("state", 3),
        ("state", {}),
        ("optimizers", None),
        ("schedulers", {"model": 3, "method": 3}),
        ("rng", {}),
        ("rng", {**content["rng"], "torch": torch.zeros(3, dtype=torch.uint8)}),
        ("rng", {**content["rng"], "python": [1]}),
        ("window", torch.zeros(7)),
        ("records", None),
        ("records", {"metrics.jsonl": "x"}),
    ):
        for name in ("best", "last"):
            torch.save({**content, key: value}, folder / f"{name}.pt")
        (stranger / "summary.json").unlink(missing_ok=True)
        commands = COMMANDS if key == "model" else COMMANDS[1:]
        for words in (*commands, *([] if key == "records" else [DIAGNOSIS])):
            result = cli(*words)
            assert result.code == 2, (key, value, result)
            lines = [x for x in result.err.splitlines() if x.startswith("rotograd: ")]
            assert len(lines) == 1, result.err
            assert "Traceback" not in result.err


@pytest.mark.slow
def test_a_strangers_summary_ends_no_command_in_a_traceback(cli: Cli, stranger: Path) -> None:
    path = stranger / "summary.json"
    summary = json.loads(path.read_text())
    texts = [json.dumps({**summary, "metrics": {"test/x": "y"}}), '{"status": "finished"}']
    texts += [json.dumps({k: v for k, v in summary.items() if k != "metric_specs"})]
    texts += ["[" * 100_000, "1" * 5000, "null"]
    for text in texts:
        path.write_text(text)
        result = cli("table", "runs=run")
        assert result.code == 2
        assert "`runs` must name a finished run, got run (" in result.err
        assert cli("evaluate", "run=run").code == 0
        result = cli("train", "resume=run")  # what is missing is made again
        assert result.code == 0, result.err
        assert json.loads(path.read_text())["metrics"] == summary["metrics"]


@pytest.mark.slow
def test_training_writes_through_no_link_of_a_strangers(
    cli: Cli, stranger: Path, tmp_path: Path
) -> None:
    (stranger / "summary.json").unlink()
    (tmp_path / "precious").write_text("mine")
    for name in (".lock", "train.log", "metrics.jsonl", "summary.tmp", "checkpoints/last.tmp"):
        link = stranger / name
        kept = link.read_bytes() if link.exists() else None
        link.unlink(missing_ok=True)
        link.symlink_to("../precious" if link.parent == stranger else "../../precious")
        for words in (("resume=run",), (*TINY, "resume=auto", "hydra.run.dir=run")):
            line = assert_refused(cli, tmp_path, "train", *words)
            assert f"{name} must be a file, got a link to" in line
        assert cli("evaluate", "run=run").code == 0
        link.unlink()
        if kept is not None:
            link.write_bytes(kept)
    (stranger / "checkpoints").rename(tmp_path / "large_disk")
    (stranger / "checkpoints").symlink_to(tmp_path / "large_disk")
    assert cli("train", "resume=run").code == 0
    assert (tmp_path / "precious").read_text() == "mine"


def test_ones_own_component_is_run_where_a_yaml_file_of_ones_own_names_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(EVIL)
    (tmp_path / "conf" / "backbone").mkdir(parents=True)
    (tmp_path / "conf" / "backbone" / "mine.yaml").write_text("_target_: mine.Net\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test's
    own = ("--config-dir", "conf")
    words = ("train", *TINY, "backbone=mine", "+backbone.hidden=[4]", "+backbone.num_features=6")
    words = tuple(w for w in words if not w.startswith(("backbone.", "backbone=mlp")))
    result = cli(*words, "hydra.run.dir=run", *own)
    assert result.code == 0, result.err
    for trusted in (own, ("trust=true",)):
        assert cli("evaluate", "run=run", *trusted).code == 0
        (tmp_path / "run" / "summary.json").unlink()
        again = cli("train", "resume=run", *trusted)
        assert again.code == 0, again.err
    assert cli(*words, "resume=auto", "hydra.run.dir=run", *own).code == 0
    for command in COMMANDS:
        assert_refused(cli, tmp_path, *command)
    assert "trust" not in (tmp_path / "run" / "config.yaml").read_text()
    sys.modules.pop("mine", None)


def test_trust_makes_no_other_run(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *TINY, "trust=true", "hydra.run.dir=run").code == 0
    assert "trust" not in yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    again = cli("train", *TINY, "resume=auto", "hydra.run.dir=run")
    assert again.code == 0
    assert "is finished" in again.err
