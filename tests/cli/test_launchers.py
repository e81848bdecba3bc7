"""Sweeps through Hydra's launchers and the Optuna sweeper, in real processes."""

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins

from rotograd_cli.config.compose import composing
from rotograd_cli.config.packing import available_cores
from rotograd_cli.config.schema import to_train_config
from rotograd_cli.extras import installing
from tests import fake_slurm
from tests.forked import Forked
from tests.records import records
from tests.waiting import PATIENCE_S, wait_for

from .conftest import CHECKOUT, Cli, Result, start
from .test_interrupt import group_is_gone
from .test_sweep import SMALL, cells

TWO_AT_ONCE = ("launcher=local", "launcher.jobs_per_device=2")
SWEEP = ("train", "-m", *SMALL, "hydra.sweep.dir=sweep")
LONG = ("logger=none", "device=cpu", "train.epochs=10000", "train.limit_batches=5")


def run(cwd: Path, *words: str, **env: str) -> Result:
    process = start(*words, cwd=cwd, **env)
    out, err = process.communicate(timeout=PATIENCE_S)
    return Result(process.returncode, out, err)


def swept(cwd: Path, *words: str, **env: str) -> tuple[Result, dict[str, dict[str, Any]]]:
    """Result and summaries of a sweep; none of them ends in a traceback."""
    result = run(cwd, *SWEEP, *words, **env)
    assert "Traceback" not in result.err
    return result, cells(cwd / "sweep")


def composed(*words: str) -> Any:
    with composing():
        return compose("train", list(words), return_hydra_config=True)


# presets


def test_local_runs_one_job_per_core_or_as_many_as_asked_for() -> None:
    assert composed("launcher=local", "device=cpu").hydra.launcher.n_jobs == available_cores()
    config = composed(*TWO_AT_ONCE, "device=cpu")
    assert (config.hydra.launcher.n_jobs, config.hydra.callbacks.worker.slots) == (2, 2)


def test_slurm_takes_what_a_job_needs() -> None:
    words = ("hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=2")
    launcher = composed("launcher=slurm", *words).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.partition, launcher.gpus_per_node, launcher.nodes) == ("gpu", 2, 1)


def test_a_search_has_the_direction_of_the_selection() -> None:
    words = ("sweep=optuna", "train.select=val/left/accuracy", "train.select_mode=max")
    sweeper = composed(*words).hydra.sweeper
    assert sweeper.direction == "maximize"
    assert composed("sweep=optuna").hydra.sweeper.direction == "minimize"
    assert sweeper.sampler.seed == 0


@pytest.mark.parametrize("words", [TWO_AT_ONCE, ("launcher=slurm",), ("sweep=optuna",)])
def test_how_runs_are_launched_is_no_part_of_a_run(words: tuple[str, ...]) -> None:
    def setting(*words: str) -> Any:
        with composing():
            return to_train_config(compose("train", list(words)))

    assert setting(*words) == setting()


DOCUMENTED = re.findall(
    r"^rotograd train -m (.*)$", (CHECKOUT / "docs" / "sweeps.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize("command", DOCUMENTED)
def test_the_documented_sweeps_compose(command: str) -> None:
    words = shlex.split(command)
    if "launcher=ray" in words and importlib.util.find_spec("ray") is None:
        pytest.skip("rotograd-cli[ray] is missing")
    parsed = OverridesParser.create().parse_overrides(words)
    one_cell = [w for w, p in zip(words, parsed, strict=True) if not p.is_sweep_override()]
    with_runtime = [*one_cell, "hydra.run.dir=run", "hydra.mode=MULTIRUN"]
    to_train_config({k: v for k, v in composed(*with_runtime).items() if k != "hydra"})


# wrong input


@pytest.mark.parametrize(
    ("word", "node", "extra"),
    [
        ("launcher=local", "launcher/joblib", "local"),
        ("launcher=slurm", "launcher/submitit_slurm", "slurm"),
        ("launcher=ray", "launcher/ray", "ray"),
        ("sweep=optuna", "sweeper/optuna", "optuna"),
        ("hydra/launcher=joblib", "launcher/joblib", "local"),
        ("hydra/launcher=submitit_local", "launcher/submitit_local", "slurm"),
        ("hydra/sweeper=optuna", "sweeper/optuna", "optuna"),
    ],
)
def test_a_missing_plugin_names_its_extra(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, node: str, extra: str
) -> None:
    Plugins.instance()  # those that are installed make themselves known once
    group, name = node.split("/")
    known = ConfigStore.instance().repo["hydra"][group]
    monkeypatch.delitem(known, f"{name}.yaml", raising=False)
    result = cli("train", *SMALL, "-m", word, "seed=0,1")
    assert result.code == 2
    assert result.err == f"rotograd: {name} is not installed; run {installing(extra)}.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("+foo=1,2",), "`foo` is not a key"),
        (("+train.epocs=1,2",), "did you mean train.epochs?"),
        (("++foo.bar=1", "seed=0,1"), "`foo` is not a key"),
        (("launcher.jobs_per_device=2", "seed=0,1"), "choose one with launcher=NAME"),
        (("launcher=slurm", "launcher.jobs_per_device=2"), "choose one with launcher=NAME"),
        (("launcher=local", "launcher.jobs_per_device=0"), "must be at least 1, got 0"),
        (("launcher=lokal",), "Did you mean local?"),
        (("launcher=slurm", "seed=0,1"), "run it on a login node"),
    ],
)
def test_what_is_wrong_for_every_cell_is_refused_before_the_first(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setenv("PATH", "")  # no SLURM
    result = cli("train", *SMALL, "-m", *words)
    assert result.code == 2
    assert expected in result.err
    assert len(result.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_option_of_a_component_may_be_added_in_a_sweep(cli: Cli, tmp_path: Path) -> None:
    words = ("-m", "+heads.sum.hidden=[3],[4]", "hydra.sweep.dir=sweep")
    assert cli("train", *SMALL, *words).code == 0
    assert len(cells(tmp_path / "sweep")) == 2


@pytest.mark.slow
def test_a_used_cell_is_refused_by_a_worker_too(tmp_path: Path) -> None:
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / "config.yaml").write_text("{}")
    result, _ = swept(tmp_path, "seed=0", *TWO_AT_ONCE)
    assert result.code == 2
    assert "already holds runs, in 0" in result.err.splitlines()[-1]


# runs


@pytest.mark.slow
def test_runs_side_by_side_equal_runs_of_their_own(cli: Cli, tmp_path: Path) -> None:
    words = (*TWO_AT_ONCE, "method.rotation_shape=30", "backbone.num_features=20,40")
    result, found = swept(tmp_path, *words)
    assert result.code == 1, result.err
    assert [found[n]["status"] for n in "01"] == ["failed", "finished"]
    assert "choose a size of at most 20" in found["0"]["error"]
    assert result.out.count("finished") == 1
    assert found["1"]["command"] == ["rotograd train", *SWEEP[1:], *words]
    assert found["1"]["num_threads"] == max(1, available_cores() // 2)
    own = ("method.rotation_shape=30", "backbone.num_features=40")
    assert cli("train", *SMALL, *own, "hydra.run.dir=alone").code == 0
    alone = tmp_path / "alone"
    cell = tmp_path / "sweep" / "1"
    assert records(alone) == records(cell)
    assert (alone / "config.yaml").read_bytes() == (cell / "config.yaml").read_bytes()


@pytest.mark.slow
def test_slurm_gets_what_was_asked_for_and_its_results_are_shown(tmp_path: Path) -> None:
    env = fake_slurm.install(tmp_path / "slurm")
    asked = ("hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=90")
    result, found = swept(tmp_path, "launcher=slurm", *asked, "seed=0,1", **env)
    assert result.code == 0, result.err
    assert "2 cells on multidigits: test metrics" in result.out
    assert [found[n]["seed"] for n in "01"] == [0, 1]
    assert found["0"]["command"][0] == "rotograd train"
    script = (tmp_path / "slurm" / "submitted.sh").read_text()
    options = set(re.findall(r"#SBATCH --([\w-]+=\S+)", script))
    expected = {"partition=gpu", "time=90", "gpus-per-node=1", "cpus-per-task=4", "mem=16GB"}
    assert expected | {"array=0-1%2", "nodes=1", "job-name=rotograd"} <= options


@pytest.mark.slow
def test_optuna_searches_on_validation_and_prints_the_best(tmp_path: Path) -> None:
    search = ("method=vanilla", "sweep=optuna", "hydra.sweeper.n_trials=3")
    process = Forked((*SWEEP, *search), tmp_path, {"OMP_NUM_THREADS": "1"})
    out, err = process.communicate()
    assert process.returncode == 0, err
    found = cells(tmp_path / "sweep")
    assert len(found) == 3
    best = min(found.values(), key=lambda cell: cell["metrics"]["val/geomean_loss"])
    line = next(line for line in out.splitlines() if line.startswith("Best value"))
    value, words = line.removeprefix("Best value ").split(" with ")
    assert float(value) == pytest.approx(best["metrics"]["val/geomean_loss"], rel=1e-5)
    for cell in found.values():
        assert f" {cell['metrics']['val/geomean_loss']:.4f} " in out
    drawn = dict(word.split("=") for word in words.split())
    assert set(words.split()) <= set(best["overrides"])
    assert 0.0003 <= float(drawn["model_optimizer.lr"]) <= 0.01
    rates = {next(w for w in cell["overrides"] if "model_opt" in w) for cell in found.values()}
    assert len(rates) == 3


@pytest.mark.slow
def test_a_search_is_repeatable_and_a_trial_that_fails_is_the_worst(tmp_path: Path) -> None:
    choices = "model_optimizer.lr=choice(1e30,1e29,1e-3)"
    words = ("sweep=optuna", choices, "method=vanilla", "method_optimizer.lr=1e-3")
    options = ("hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "train.log_every_steps=1")
    found = []
    for name, launcher in (("a", ()), ("b", TWO_AT_ONCE)):
        own = (*options, f"hydra.sweep.dir={name}", *launcher)
        result = run(tmp_path, "train", "-m", *SMALL, *words, *own)
        assert result.code == 1, result.err
        assert "with model_optimizer.lr=0.001" in result.out
        found.append(cells(tmp_path / name))
    drawn = [[cell["overrides"][0] for _, cell in sorted(part.items())] for part in found]
    assert drawn[0] == drawn[1]
    statuses = {cell["overrides"][0]: cell["status"] for cell in found[0].values()}
    assert statuses.pop("model_optimizer.lr=0.001") == "finished"
    assert set(statuses.values()) == {"failed"}


@pytest.mark.slow
def test_a_search_of_which_every_trial_fails_names_no_best(tmp_path: Path) -> None:
    words = ("sweep=optuna", "model_optimizer.lr=choice(1e30,1e29)", "method_optimizer.lr=1e-3")
    options = ("hydra.sweeper.n_trials=2", "train.log_every_steps=1")
    result, _ = swept(tmp_path, "method=vanilla", *words, *options)
    assert result.code == 1
    assert "No trial finished;" in result.out
    assert "Best" not in result.out


@pytest.mark.slow
def test_a_job_that_slurm_loses_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    env = {**fake_slurm.install(tmp_path / "slurm"), "FAKE_SLURM_FAIL": "4711_1"}
    result, _ = swept(tmp_path, "launcher=slurm", "seed=0,1", **env)
    assert result.code == 1
    assert "1 cell on multidigits: test metrics" in result.out
    assert "state: TIMEOUT" in result.err.splitlines()[-1]


@pytest.mark.slow
def test_submitit_runs_here_too(tmp_path: Path) -> None:
    words = ("hydra/launcher=submitit_local", "seed=0,1")
    result, found = swept(tmp_path, *words)
    assert result.code == 0, result.err
    assert found["1"]["command"] == ["rotograd train", *SWEEP[1:], *words]
    assert "2 cells on multidigits: test metrics" in result.out


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="rotograd-cli[ray] is missing")
def test_ray_runs_and_reports_a_wrong_cell(tmp_path: Path) -> None:
    words = ("launcher=ray", "launcher.jobs_per_device=2")
    grid = ("method.rotation_shape=30", "backbone.num_features=20,40")
    result, found = swept(tmp_path, *words, *grid)
    assert result.code == 1, result.err
    assert [found[n]["status"] for n in "01"] == ["failed", "finished"]
    assert found["1"]["command"] == ["rotograd train", *SWEEP[1:], *words, *grid]
    assert found["1"]["num_threads"] == max(1, available_cores() // 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_command(tmp_path: Path, number: int) -> None:
    words = ("-m", *TWO_AT_ONCE, "seed=0,1", "hydra.sweep.dir=sweep")
    process = start("train", *LONG, *words, cwd=tmp_path)
    runs = [tmp_path / "sweep" / n for n in "01"]
    wait_for(lambda: all((r / "checkpoints" / "last.pt").exists() for r in runs), process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    process.wait(timeout=PATIENCE_S)
    wait_for(lambda: group_is_gone(process.pid))
    _, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err
    assert "leaked" not in err
    if number == signal.SIGINT:
        assert process.returncode == 130
        # the workers hear the terminal too, and one may speak after the parent
        assert any(line.startswith("Interrupted;") for line in err.splitlines())
    for r in runs:
        assert json.loads((r / "summary.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_a_worker_that_is_killed_is_reported(tmp_path: Path) -> None:
    words = ("-m", *TWO_AT_ONCE, "seed=0,1", "hydra.sweep.dir=sweep")
    process = start("train", *LONG, *words, cwd=tmp_path)
    wait_for((tmp_path / "sweep" / "0" / "checkpoints" / "last.pt").exists, process)
    listed = subprocess.run(
        ["pgrep", "-g", str(process.pid), "-f", "LokyProcess-1"], capture_output=True, text=True
    )
    os.kill(int(listed.stdout.split()[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "The launcher lost a job (TerminatedWorkerError" in err.splitlines()[-1]
    assert "Traceback" not in err


# Weights & Biases


def sweep_file() -> dict[str, Any]:
    path = CHECKOUT / "scripts" / "wandb_sweep.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


@pytest.mark.slow
def test_the_agents_command_of_the_wandb_sweep_trains_a_run(tmp_path: Path, cli: Cli) -> None:
    from wandb.sdk.launch.sweeps import utils

    sweep = sweep_file()
    chosen = {
        key: {"value": spec.get("value", spec.get("values", [spec.get("min")])[0])}
        for key, spec in sweep["parameters"].items()
    }
    chosen["logger.mode"] = {"value": "offline"}  # no account here
    words = utils.create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    assert sweep["command"] == ["${env}", "rotograd", "train", "${args_no_hyphens}"]
    result = cli("train", "debug=smoke", "logger=wandb", *words, "hydra.run.dir=run")
    assert result.code == 0, result.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert sweep["metric"]["name"] in summary["metrics"]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model_optimizer"]["lr"] == sweep["parameters"]["model_optimizer.lr"]["min"]
    assert sweep["metric"]["goal"] == f"{config['train']['select_mode']}imize"
