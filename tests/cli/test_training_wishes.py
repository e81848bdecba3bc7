"""docs/training.md: lines that train as printed, runs that are made longer, all wishes at once."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose

from rotograd_cli.config.components import Constructors
from rotograd_cli.config.compose import composing
from rotograd_cli.config.schema import to_train_config
from tests.records import records

from .conftest import SMOKE, Cli
from .test_contributing import blocks
from .test_many_ranks import finished, torchrun
from .test_resume import SHORT, killed_and_resumed, same, whole

TINY = (
    *("data=synthetic", "data.input_shape=[4]", "backbone=mlp", "head=linear", "logger=none"),
    *("device=cpu", "train.batch_size=8", "train.limit_batches=3", "train.select=val/loss"),
    *("train.eval_batch_size=16", "train.limit_eval_batches=1", "method=rotograd"),
)
EVERYTHING = (
    *("scheduler@model_scheduler=cosine", "model_scheduler.interval=step"),
    *("model_scheduler.warmup_epochs=1", "scheduler@method_scheduler=plateau"),
    *("method_scheduler.warmup_steps=3", "method_scheduler.scheduler.patience=0"),
    'parameter_groups=[{pattern: "*.bias", lr_factor: 2}, {pattern: "backbone.*", lr: 1e-2}]',
    *("train.ema_decay=0.9", "train.patience=2"),
)


def lines() -> list[list[str]]:
    (commands,) = blocks("bash", "docs/training.md")
    words = [shlex.split(line) for line in commands.splitlines()]
    assert all(each[:2] == ["rotograd", "train"] for each in words)
    return [each[2:] for each in words]


def test_every_line_composes_and_stands_in_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    with composing():
        for words in lines():
            Constructors(to_train_config(compose("train", words)))
            keys = {word.partition("=")[0] for word in words}
            assert all(f"{key}=" in text.partition("```bash")[0] for key in keys)


@pytest.mark.slow
@pytest.mark.parametrize("words", lines(), ids=" ".join)
def test_every_line_trains(cli: Cli, words: list[str]) -> None:
    result = cli("train", *SMOKE, *words, "train.limit_batches=8")
    assert result.code == 0, result.err


# ---- longer training


def content_of(run: Path, name: str = "last.pt") -> dict[str, Any]:
    """A checkpoint without times, and without what says when the run was made longer."""
    content: dict[str, Any] = torch.load(run / "checkpoints" / name, weights_only=True)
    for key in ("train_s", "data_s", "wall_s", "extended_at"):
        content["state"].pop(key)
    for key in ("records", "config"):  # of best.pt, which may have been written before
        content.pop(key)
    return content


def test_a_run_made_longer_is_the_longer_run(cli: Cli, tmp_path: Path) -> None:
    for name, epochs in (("run", 2), ("wanted", 4)):
        words = (*TINY, f"train.epochs={epochs}", f"hydra.run.dir={name}")
        assert cli("train", *words).code == 0
    result = cli("train", "resume=run", "train.epochs=4")
    assert result.code == 0, result.err
    run, wanted = tmp_path / "run", tmp_path / "wanted"
    assert records(run) == records(wanted)
    assert (run / "config.yaml").read_text() == (wanted / "config.yaml").read_text()
    for name in ("last.pt", "best.pt"):
        assert same(content_of(run, name), content_of(wanted, name))
    first, second = (json.loads((each / "summary.json").read_text()) for each in (run, wanted))
    for key in ("metrics", "notes", "epochs", "planned_epochs", "selected_epoch", "status"):
        assert first[key] == second[key]
    assert (first["extended_at_epochs"], second["extended_at_epochs"]) == ([2], [])
    assert "train.epochs=4" in first["overrides"]
    assert "train.epochs=2" not in first["overrides"]
    again = cli("train", "resume=run", "train.epochs=4")
    assert (again.code, "run is finished." in again.err) == (0, True)


def test_a_mean_of_the_last_epochs_is_of_epochs_that_are_all_still_to_come(cli: Cli) -> None:
    words = (*TINY, "train.epochs=3", "train.average_last_epochs=2", "hydra.run.dir=run")
    assert cli("train", *words).code == 0
    refused = cli("train", "resume=run", "train.epochs=4")
    assert refused.code == 2
    assert refused.err == (
        "rotograd: `train.epochs` must be at least 5 for the mean of the last 2 epochs "
        "(train.average_last_epochs) of a run that is made longer after epoch 3, got 4; raise it.\n"
    )
    result = cli("train", "resume=run", "train.epochs=5")
    assert (result.code, "the mean of epochs 4 to 5;" in result.err) == (0, True)


@pytest.mark.slow
def test_a_cosine_to_the_end_goes_on_as_in_the_longer_run_and_says_so(
    cli: Cli, tmp_path: Path
) -> None:
    cosine = (*TINY, "scheduler@model_scheduler=cosine", "train.patience=9")
    for name, epochs in (("run", 2), ("wanted", 4), ("old", 2)):
        assert cli("train", *cosine, f"train.epochs={epochs}", f"hydra.run.dir={name}").code == 0
    config = tmp_path / "old" / "config.yaml"  # as earlier versions wrote it
    config.write_text(config.read_text().replace("T_max: end", "T_max: 2"))
    expected = [r["train/lr"] for r in records(tmp_path / "wanted") if "train/lr" in r]
    for name in ("run", "old"):
        result = cli("train", f"resume={name}", "train.epochs=4")
        said = "model_scheduler ended with epoch 2 and now ends with epoch 4: the learning rate "
        now = "changes from 0 to 0.0005, its value at this point of a run of 4 epochs."
        assert f"{said}{now}" in result.err
        assert "Note: made longer after epoch 2; until then the learning rate was" in result.out
        rates = [r["train/lr"] for r in records(tmp_path / name) if "train/lr" in r]
        assert rates[:2] == [1e-3, pytest.approx(5e-4)]
        assert rates[2:] == expected[2:]
        assert "Note: made longer after epoch 2" in cli("table", f"runs={name}").out


@pytest.mark.slow
def test_a_run_that_stopped_early_says_so_and_goes_on_with_more_patience(
    cli: Cli, tmp_path: Path
) -> None:
    words = (*TINY, "train.epochs=9", "model_optimizer.lr=1.0", "hydra.run.dir=run")
    result = cli("train", *words, "train.patience=1")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    epochs = summary["epochs"]
    assert epochs < 9
    said = f"epoch {summary['selected_epoch']}, stopped after {epochs} of 9"
    assert said in " ".join(result.out.split())
    assert f"Stopped early after epoch {epochs} of 9: no better val/loss in 1 eval" in result.err
    assert f"{epochs}/9 early" in cli("runs", "run").out
    assert "run is finished." in cli("train", "resume=run").err
    refused = cli("train", "resume=run", "train.epochs=20")
    assert refused.code == 2
    assert refused.err.endswith("raise train.patience.\n")
    assert cli("train", "resume=run", "train.patience=null").code == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 9


# ---- everything together


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("precision=fp16", "train.accumulate_steps=2")])
def test_a_killed_run_with_everything_ends_as_if_nothing_had_happened(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    killed_and_resumed(tmp_path, "rotogradnorm", 2, 19, *EVERYTHING, *more)


@pytest.mark.slow
def test_two_processes_do_everything_as_one(tmp_path: Path) -> None:
    words = (*SHORT, *EVERYTHING, "method=rotograd")
    whole(*words, "hydra.run.dir=alone", cwd=tmp_path)
    finished(torchrun("train", *words, "hydra.run.dir=two", cwd=tmp_path))
    for found, expected in zip(records(tmp_path / "two"), records(tmp_path / "alone"), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)  # float32
