"""Numbers of the report against naive loops, and what stands where a part is missing."""

import json
import os
import platform
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rotograd_cli.config.schema import ReportConfig
from rotograd_cli.errors import ConfigError
from rotograd_cli.report import charts, html
from rotograd_cli.report.charts import Point, lines
from rotograd_cli.report.command import write_report
from rotograd_cli.report.comparison import band
from rotograd_cli.report.curves import selected_step
from rotograd_cli.report.gradients import frame_data, own_names
from rotograd_cli.report.measured import Measured, ious, measure
from rotograd_cli.report.overview import overview
from rotograd_cli.report.page import Charts, in_script
from rotograd_cli.report.palette import style_sheet, variables
from rotograd_cli.report.predictions import tasks_section
from rotograd_cli.report.series import points, thinned
from rotograd_cli.report.single import _measured, run_page
from rotograd_cli.runs.directory import unfinished
from rotograd_cli.runs.summary import MetricDisplay, RunSummary
from rotograd_cli.tables.colours import COLOURS, ON_DARK, styles
from rotograd_cli.training.batches import complete_batches
from rotograd_cli.training.evaluation import evaluate
from tests.fake_runs import fake_summary
from tests.toy import TASKS, ToyDataset, toy_model

NAN = float("nan")
CONFIG = ReportConfig(run="", output=None, split="test", checkpoint=None, limit=None,
    examples=None, device=None, data_dir=None, trust=False)  # fmt: skip


def test_long_lines_are_means_over_windows_that_hold_every_record_once() -> None:
    steps = np.arange(1.0, 1001.0)
    values = np.random.default_rng(0).normal(size=1000)
    at, means = thinned(steps, values, 7)
    start = 0
    for end, mean in zip(at.astype(int), means, strict=True):  # a step is a record here
        assert mean == pytest.approx(values[start:end].mean())
        start = end
    assert start == 1000


def test_a_line_has_the_finite_records_of_its_key() -> None:
    history = {"step": np.array([1.0, 2, 3]), "a": np.array([5.0, NAN, 7])}
    assert points(history, {"line": "a", "none": "b"}) == [("line", 1, 5), ("line", 3, 7)]


def test_frames_hold_the_cosines_of_all_pairs_in_hundredths() -> None:
    cosine = np.linspace(-1, 1, 101)
    history = {
        "step": np.arange(101.0),
        "x": np.where(np.arange(101) % 2, NAN, cosine),
        "y": np.full(101, NAN),
    }
    data = frame_data(history, {"after": ["x", "y"]})
    assert data["steps"][0] == 0
    assert data["steps"][-1] == 100
    assert len(data["steps"]) <= 40
    for step, frame in zip(data["steps"], data["after"], strict=True):
        assert frame == [round(100 * cosine[step]), None]  # type: ignore[call-overload]


def test_numbers_that_a_rule_records_of_each_task_are_drawn() -> None:
    summary = RunSummary(
        tasks=["a", "b"], metric_specs={"a/accuracy": MetricDisplay("higher", True)}
    )
    keys = "step train/loss train/conflict/rate train/a/loss train/a/weight train/a/b/cosine "
    keys += "train/a/accuracy val/a/chosen train/a/num_chosen train/b/num_chosen train/lr"
    assert own_names({key: np.ones(1) for key in keys.split()}, summary) == ["num_chosen"]


def test_a_band_reaches_over_the_seeds_at_their_common_steps() -> None:
    first = {"step": np.array([1.0, 2, 3]), "a": np.array([1.0, 2, NAN])}
    second = {"step": np.array([2.0, 3]), "a": np.array([6.0, 9])}
    assert band("row", [first, second], "a") == [("row", 2, 4, 2, 6)]
    assert band("row", [first, {"step": np.array([9.0]), "a": np.array([1.0])}], "a") == []


def test_a_band_of_many_steps_reaches_over_all_values_of_its_windows() -> None:
    steps = np.arange(1.0, 1001.0)
    values = np.random.default_rng(0).normal(size=(3, 1000))
    points = band("row", [{"step": steps, "a": each} for each in values], "a")
    assert len(points) == 80
    start = 0
    for point in points:
        part = values[:, start : int(point.step)]
        expected = (part.mean(), part.min(), part.max())
        assert point[2:] == pytest.approx(expected)
        start = int(point.step)
    assert start == 1000


def test_the_selected_epoch_ends_where_it_was_evaluated() -> None:
    history = {
        "step": np.array([3.0, 4, 8, 12, 12]),
        "epoch": np.array([1.0, 1, 2, 3, 1]),
        "val/a": np.array([NAN, 1, 2, 3, NAN]),
        "test/a": np.array([NAN, NAN, NAN, NAN, 1]),
    }
    assert selected_step(history, RunSummary(selected_epoch=1)) == 4
    assert selected_step(history, RunSummary(selected_epoch=4)) is None


def test_axes_have_whole_steps_and_a_single_point_as_it_is() -> None:
    spec = lines([Point("val", 12345.0, 0.98766)], percent=True)
    x, y = (spec["layer"][0]["encoding"][axis]["axis"] for axis in "xy")
    assert (x["values"], x["tickMinStep"]) == ([12345], 1)
    assert (y["values"], y["format"]) == ([0.9877], ".4~%")
    (values,) = spec["datasets"].values()
    assert values == [{"line": "val", "step": 12345, "value": 0.9877}]


def test_what_became_of_a_run_is_one_sentence(tmp_path: Path) -> None:
    def words(**changes: Any) -> str:
        summary = RunSummary(**{"selected_epoch": 2, "epochs": 3, **changes})
        summary.write(tmp_path)
        note = unfinished(tmp_path)
        return overview(tmp_path, summary).body + str(note)

    assert "selected epoch" in words(status="finished")
    assert "resume=" not in words(status="finished")
    stopped = words(status="running")  # no process has it
    assert "best epoch so far" in stopped
    assert "resume=" in stopped
    assert "not finished (stopped): its best epoch may still change" in stopped
    assert "resume=" not in words(status="failed", error="It became nan; lower the rate.")
    owner = f"process {os.getpid()} on {platform.node()}\n"
    (tmp_path / ".lock").write_text(owner)
    assert "The run is going on" in words(status="running")
    assert "best epoch so far" not in words(status="running", selected_epoch=0)


def test_intersection_over_union_of_every_class() -> None:
    generator = np.random.default_rng(0)
    true, predicted = generator.integers(0, 4, (2, 500))
    true[true == 3] = 0  # class 3 is predicted alone
    counts = np.zeros((5, 5), np.int64)
    np.add.at(counts, (true, predicted), 1)
    for k, iou in enumerate(ious(counts)):
        union = ((true == k) | (predicted == k)).sum()
        both = ((true == k) & (predicted == k)).sum()
        assert np.isnan(iou) if union == 0 else iou == both / union


def test_what_is_measured_agrees_with_the_metrics_of_the_evaluation() -> None:
    model, dataset = toy_model("rotograd"), ToyDataset((4, 4, 30))

    def measured_of(evaluated: int, limit: int | None) -> Measured:
        return measure(
            model, dataset, "test", checkpoint="best", evaluated=evaluated, limit=limit,
            num_examples=5, batch_size=7,
        )  # fmt: skip

    measured = measured_of(30, None)
    batches = complete_batches(dataset, "test", [torch.arange(30)])
    metrics = evaluate(model, TASKS, batches, "test")
    kind = measured.confusions["kind"]
    assert kind.trace() / kind.sum() == pytest.approx(metrics["test/kind/accuracy"])
    flag = measured.confusions["flag"]
    f1 = 2 * flag[1, 1] / (flag[1].sum() + flag[:, 1].sum())
    assert f1 == pytest.approx(metrics["test/flag/f1"])
    squares = [(t - p) ** 2 for t, p in measured.pairs["value"]]
    assert np.mean(squares) == pytest.approx(metrics["test/value/mse"], rel=1e-5)
    assert len(measured.examples) == 5
    few = measured_of(4, 3)
    assert (few.num, few.evaluated, few.total, len(few.examples)) == (3, 4, 30, 3)
    cut = measured_of(4, None)
    assert cut.confusions["kind"].sum() == 4
    summary = RunSummary(status="finished", selected_epoch=2, metrics={"test/kind/accuracy": 0.5})
    body = tasks_section(cut, summary, "test", None, Charts()).body
    assert "best.pt for the first 4 of 30 test examples, those that the run evaluates." in body
    body = tasks_section(few, summary, "test", None, Charts()).body
    assert "results above are of the first 4 of 30 examples, epoch 2 of" in body


def test_an_error_of_a_users_component_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such\nfile")

    monkeypatch.setattr("rotograd_cli.report.loading.measure_run", fail)
    assert _measured(tmp_path, CONFIG) == "Predictions are not shown: ValueError: no such"


def test_a_missing_library_is_refused_before_anything_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ConfigError, match=r"need vl-convert, .* -m pip install 'rotograd-cli"):
        write_report(replace(CONFIG, run=str(tmp_path)))


def test_texts_of_a_run_are_no_markup() -> None:
    attack = "</script><script>alert(1)</script>"
    assert "<script" not in html.sentence(attack) + html.facts({attack: attack})
    assert "<" not in in_script({"task": attack})
    assert json.loads(in_script({"task": attack})) == {"task": attack}


def test_a_row_has_the_colour_of_the_figures_with_a_legend_and_in_charts_alike() -> None:
    labels = ["Vanilla", "RotoGrad", "PCGrad, lr=0.1", "MGDA"]
    sheet = dict(re.findall(r"--(c\d+):(#\w+);", style_sheet().partition("@media")[0]))
    shown = {name: sheet[used[6:-1]] for name, used in variables(labels).items()}
    assert shown == {label: style.color for label, style in styles(labels).items()}
    chart = charts.lines([Point(label, 1.0, 2.0) for label in labels])
    colours = chart["layer"][0]["encoding"]["color"]["scale"]
    assert dict(zip(colours["domain"], colours["range"], strict=True)) == variables(labels)
    assert len(COLOURS) == len(set(COLOURS)) == len(ON_DARK) == len(set(ON_DARK))


def test_missing_parts_are_sentences(tmp_path: Path) -> None:
    summary = {**fake_summary({"left/accuracy": 0.5}), "schema_version": 1}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    records = [{"step": 1, "train/left/loss": 2.0}, {"step": 2, "train/left/loss": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    page = run_page(tmp_path, CONFIG)
    text = page.partition("<footer>")[0]
    for words in (
        "recorded no diagnostics of its gradients; train with diagnostics=basic",
        "Predictions are not shown:",
        "left loss",
        "50.00",
    ):
        assert words in text
    assert len(page.encode()) < 2e6
    for address in ("http:", "https:", "//"):  # namespaces and licences are no requests
        assert f'src="{address}' not in page
        assert f'href="{address}' not in page
