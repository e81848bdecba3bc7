"""Loggers, read back with the libraries they are for: TensorBoard's events and CSV."""

import csv
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from rotograd_cli.data.base import Batch
from rotograd_cli.pictures.confusion import draw_confusion
from rotograd_cli.ranks.base import ONE
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.losses import binary_cross_entropy, cross_entropy, mean_squared_error
from rotograd_cli.tracking.csv import CsvTracker
from rotograd_cli.tracking.jsonl import RECORDS, JsonlTracker, records
from rotograd_cli.tracking.tensorboard import TensorBoardTracker
from rotograd_cli.training.evaluation_view import EvaluationView
from tests.read_back import csv_records, events

TRAIN = {"step": 2, "epoch": 1, "train/left/loss": 0.1, "train/loss": 1 / 3}
EVALUATION = {"step": 2, "epoch": 1, "val/left/loss": math.nan, "val/left/accuracy": 0.7}
LATER = {"step": 4, "epoch": 2, "train/left/loss": 1e-300, "train/loss": math.inf}
NEW_KEY = {"step": 4, "epoch": 2, "test/left/loss": 2.5}


def tensorboard(run_dir: Path) -> TensorBoardTracker:
    return TensorBoardTracker(
        run_dir=run_dir, config={"seed": 3}, tags=[], images=0, confusion=False
    )


def table(run_dir: Path) -> CsvTracker:
    return CsvTracker(run_dir=run_dir, config={}, tags=[])


@pytest.fixture
def warned(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """Warnings of the trackers, whatever an earlier run did to the package's logger."""
    logger = logging.getLogger("rotograd_cli.tracking")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


# ---- metrics.csv


def known(run_dir: Path) -> list[dict[str, float]]:
    """The records without nulls."""
    return [{key: x for key, x in record.items() if x is not None} for record in records(run_dir)]


def test_the_table_holds_the_records_after_every_one_and_new_keys_are_the_last_columns(
    tmp_path: Path,
) -> None:
    file = JsonlTracker(tmp_path / RECORDS)
    mirror = table(tmp_path)
    for record in (TRAIN, EVALUATION, LATER, NEW_KEY):
        file.log(record)
        mirror.log(record)
        assert csv_records(tmp_path) == known(tmp_path)
    file.finish({})
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == list(TRAIN | EVALUATION | NEW_KEY)  # by first appearance
    assert {len(row) for row in rows} == {len(header)}


def test_the_table_of_a_resumed_run_is_that_of_its_records(tmp_path: Path) -> None:
    file = JsonlTracker(tmp_path / RECORDS)
    mirror = table(tmp_path)
    for record in (TRAIN, EVALUATION):
        file.log(record)
        mirror.log(record)
    size = file.position()
    file.log(LATER)
    mirror.log(LATER)  # after the checkpoint
    file.finish({})
    file = JsonlTracker(tmp_path / RECORDS, size)
    mirror = table(tmp_path)
    assert file.dropped_from == LATER["step"]
    file.log(NEW_KEY)
    mirror.log(NEW_KEY)
    file.finish({})
    assert csv_records(tmp_path) == known(tmp_path)
    assert len(known(tmp_path)) == 3


# ---- TensorBoard


def as_float32(record: Mapping[str, float]) -> dict[tuple[str, int], float]:
    return {
        (key, int(record["step"])): float(np.float32(value))
        for key, value in record.items()
        if key != "step"
    }


def test_events_hold_every_value_by_its_key_and_step(tmp_path: Path) -> None:
    mirror = tensorboard(tmp_path)
    for record in (TRAIN, LATER, NEW_KEY):
        mirror.log(record)
        assert as_float32(record).items() <= events(tmp_path).items()  # before the file is closed
    mirror.finish({})
    assert events(tmp_path) == as_float32(TRAIN) | as_float32(LATER) | as_float32(NEW_KEY)


def test_a_resumed_run_shows_nothing_twice_and_loses_nothing(tmp_path: Path) -> None:
    mirror = tensorboard(tmp_path)
    evaluation = {"step": 4, "epoch": 2, "val/loss": 0.25}
    for record in (TRAIN, LATER, evaluation, {**LATER, "step": 6}):
        mirror.log(record)  # killed here, with a checkpoint before the evaluation
    resumed = tensorboard(tmp_path)
    resumed.rewind(4, [LATER])
    assert events(tmp_path) == as_float32(TRAIN) | as_float32(LATER)
    resumed.log(evaluation)
    resumed.finish({})
    assert events(tmp_path) == as_float32(TRAIN) | as_float32(LATER) | as_float32(evaluation)


# ---- trouble


@pytest.mark.parametrize(
    ("make", "name"), [(table, "metrics.csv"), (tensorboard, "tensorboard")], ids=["csv", "events"]
)
def test_a_logger_that_cannot_write_costs_one_warning_and_not_the_run(
    make: Callable[[Path], Any], name: str, tmp_path: Path, warned: pytest.LogCaptureFixture
) -> None:
    file = JsonlTracker(tmp_path / RECORDS)
    file.log(TRAIN)
    file.finish({})
    if name == "metrics.csv":
        (tmp_path / name / "full").mkdir(parents=True)
    else:
        (tmp_path / name).write_text("a file", encoding="utf-8")
    mirror = make(tmp_path)
    for _ in range(5):
        mirror.log(TRAIN)
    mirror.finish({})
    messages = [record.getMessage() for record in warned.records]
    assert len(messages) == len(set(messages)) > 0
    assert all("the run goes on without: " in message for message in messages)


# ---- what evaluations show


def own_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(prediction, target)


TASKS = (
    Task("digit", 3, cross_entropy, ()),
    Task("flag", 1, binary_cross_entropy, ()),
    Task("own", 4, own_loss, ()),
    Task("number", 1, mean_squared_error, ()),
)


def test_confusions_are_those_of_a_loop_over_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    num = 40
    predictions = [torch.randn(num, t.num_outputs, generator=generator) for t in TASKS]
    predictions[0][3, 1] = math.nan
    targets = {
        "digit": torch.randint(-1, 3, (num,), generator=generator),
        "flag": torch.randint(-1, 2, (num,), generator=generator).float(),
        "own": torch.randint(0, 4, (num,), generator=generator),
        "number": torch.randn(num, generator=generator),
    }
    targets["flag"][5] = 0.3  # a probability is no class
    targets["own"][6] = -100  # what torch's loss leaves out
    expected = {t.name: np.zeros((max(t.num_outputs, 2),) * 2, int) for t in TASKS[:3]}
    for i in range(num):
        for task, prediction in zip(TASKS[:3], predictions, strict=False):
            true, row = float(targets[task.name][i]), prediction[i]
            if true in range(4) and not row.isnan().any():
                predicted = int(row[0] > 0) if task.num_outputs == 1 else int(row.argmax())
                expected[task.name][int(true), predicted] += 1

    dataset: Any = SimpleNamespace(tasks=TASKS)
    view = EvaluationView(dataset, num_examples=0, confusion=True)
    for _ in range(2):  # the second evaluation forgets the first
        view.begin(torch.device("cpu"))
        for part in torch.arange(num).split(16):
            batch = Batch(part, {name: target[part] for name, target in targets.items()})
            view.add(batch, [prediction[part] for prediction in predictions])
        view.finish(ONE)
    assert view.confusions.keys() == expected.keys()  # a regression has none
    for name, counts in expected.items():
        np.testing.assert_array_equal(view.confusions[name], counts)
    assert view.sheet() is None


@pytest.mark.parametrize("num", [2, 10, 40])
def test_a_confusion_is_drawn_with_a_cell_per_pair_and_grey_for_a_class_that_is_absent(
    num: int,
) -> None:
    counts = np.eye(num, dtype=np.int64)
    counts[1] = 0
    picture = draw_confusion(counts)
    size = 36 if num <= 20 else 8
    right = picture.shape[1] if num > 2 else 108  # a small one has a wider caption
    corners = picture[-num * size :: size, right - num * size : right : size]
    assert corners.shape == (num, num, 3)
    is_grey = (corners == 128).all(2)
    assert is_grey[1].all()
    assert is_grey.sum() == num
    on_diagonal = corners[np.arange(num), np.arange(num)].astype(int)
    assert (on_diagonal[[0, *range(2, num)]] == (253, 231, 37)).all()  # the end of viridis
