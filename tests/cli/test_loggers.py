"""Whole runs with each logger, read back with the real libraries."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotograd_cli.errors import DatasetError
from rotograd_cli.tracking.console import ConsoleTracker
from rotograd_cli.training.train_state import TrainState
from tests.read_back import accumulator, csv_records, events, wandb_history
from tests.records import records

from .conftest import Cli

RUN = ("debug=smoke", "train.eval_batch_size=20", "hydra.run.dir=run")
PICTURES = ("logger.images=3", "logger.confusion=true")
CONFUSIONS = [f"val/{task}/confusion" for task in ("left", "right", "parity")]
TWICE = ("step", "epoch", "seconds")
"""Keys that several records of a step have."""


def values(run: Path) -> dict[tuple[str, int], float]:
    """What ``metrics.jsonl`` has that no two records of a step share, by key and step."""
    result = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        items = ((key, value) for key, value in record.items() if key not in TWICE)
        result |= {(key, record["step"]): value for key, value in items}
    return result


def without_twice(found: dict[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    return {name: value for name, value in found.items() if name[0] not in TWICE}


def as_float32(expected: dict[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    return {name: float(np.float32(value)) for name, value in expected.items()}


def test_pictures_go_to_tensorboard_and_change_no_number(
    cli: Cli, trained: Path, tmp_path: Path
) -> None:
    assert cli("train", *RUN, "logger=tensorboard", *PICTURES).code == 0
    run = tmp_path / "run"
    assert records(run) == records(trained)
    assert without_twice(events(run)) == as_float32(values(run))
    reader = accumulator(run)
    assert reader.Tags()["images"] == ["val/examples", *CONFUSIONS]  # no regression
    for name in reader.Tags()["images"]:
        (picture,) = reader.Images(name)
        assert (picture.step, picture.encoded_image_string[1:4]) == (2, b"PNG")


def test_tensorboard_that_is_not_installed_is_refused_before_anything_is_written(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = cli("train", *RUN, "logger=tensorboard")
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert "needs TensorBoard, which is not installed" in line
    assert line.endswith("pip install 'rotograd-cli[tensorboard]'.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_what_a_run_logged_after_its_last_checkpoint_is_there_once(
    logger: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    steps = ("train.epochs=3", "train.limit_batches=6", "train.log_every_steps=2")
    progress = ConsoleTracker.progress

    def fail(self: ConsoleTracker, state: TrainState, *rest: Any) -> None:
        progress(self, state, *rest)
        if state.step == 10:  # the checkpoint is of step 6
            raise DatasetError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(ConsoleTracker, "progress", fail)
        assert cli("train", *RUN, *steps, f"logger={logger}").code != 0
    run = tmp_path / "run"
    assert {step for _, step in values(run)} == {2, 4, 6, 8, 10}
    assert cli("train", "resume=run").code == 0
    assert len([r for r in records(run) if r["step"] == 10]) == 1
    if logger == "tensorboard":
        assert without_twice(events(run)) == as_float32(values(run))
        return
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert csv_records(run) == [json.loads(line) for line in lines]
    frame = pandas.read_csv(run / "metrics.csv")
    losses = [value for (key, _), value in values(run).items() if key == "train/left/loss"]
    # before pandas 3 the last digit of a float is not exact
    assert frame["train/left/loss"].dropna().tolist() == pytest.approx(losses, rel=1e-15)
    assert frame["step"].dtype == np.int64


@pytest.mark.slow
def test_an_offline_run_of_wandb_holds_values_pictures_and_confusions(
    cli: Cli, tmp_path: Path
) -> None:
    words = ("logger=wandb", "logger.mode=offline", *PICTURES)
    assert cli("train", *RUN, "train.epochs=2", *words).code == 0
    run = tmp_path / "run"
    (path,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    history = wandb_history(path)
    expected = values(run)
    assert {name: history[name] for name in expected} == expected
    files = path.parent / "files"
    for step in (2, 4):
        assert (files / history["val/examples/path", step]).read_bytes()[1:4] == b"PNG"
        for name in CONFUSIONS:
            table = (files / history[f"{name}_table/path", step]).read_text(encoding="utf-8")
            counts = [num for _, _, num in json.loads(table)["data"]]
            assert len(counts) == (4 if "parity" in name else 100)
            assert sum(counts) == 40  # two batches of an evaluation
