"""What figures draw, read back from matplotlib's artists and compared with the records."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from rotograd_cli.errors import ConfigError
from rotograd_cli.figures.base import LinesFigure
from rotograd_cli.figures.canvas import Drawing, save, styled
from rotograd_cli.figures.conflicts import Conflicts
from rotograd_cli.figures.curves import Curves
from rotograd_cli.figures.per_task import PerTask
from rotograd_cli.figures.series import smoothed
from rotograd_cli.tables.colours import styles
from rotograd_cli.tables.runs import find_runs
from tests.fake_runs import fake_config, fake_summary, write_run

TASKS = ("left", "sum", "third")
EVALUATED = (40, 80, 120)
LOGGED = range(10, 130, 10)
LINES: dict[str, Any] = {"x": "step", "smooth": None, "band": "minmax"}


def recorded(seed: int, tasks: Sequence[str], rotated: bool) -> Iterator[dict[str, Any]]:
    """Random records of a run: epochs of 40 steps, a record every 10 steps."""
    rng = np.random.default_rng(seed)
    for step in LOGGED:
        record = {"step": step, "epoch": math.ceil(step / 40), "seconds": step * (1.0 + seed)}
        for task in tasks:
            record |= {f"train/{task}/loss": rng.random(), f"train/{task}/weight": rng.random()}
            record[f"train/{task}/grad_norm"] = rng.random()
        for stage in ("", "_before") if rotated else ("",):
            for index, a in enumerate(tasks):
                for b in tasks[index + 1 :]:
                    record[f"train/{a}/{b}/cosine{stage}"] = rng.uniform(-1, 1)
            record[f"train/conflict/rate{stage}"] = rng.random()
            record[f"train/conflict/mean_cosine{stage}"] = rng.uniform(-1, 1)
        yield record
        if step in EVALUATED:
            values = {f"val/{task}/loss": rng.random() for task in tasks}
            values |= {"val/left/accuracy": rng.random(), "val/geomean_loss": rng.random()}
            yield {"step": step, "epoch": step // 40, **values}
    yield {"step": 120, "epoch": 2, "test/left/accuracy": 0.5}


def make_run(
    folder: Path,
    method: str,
    seed: int,
    tasks: Sequence[str] = TASKS,
    config: Mapping[str, Any] | None = None,
    **summary: Any,
) -> list[dict[str, Any]]:
    """Write a run directory, and return its records."""
    content = fake_summary({f"{task}/loss": 1.0 for task in tasks}, seed, **summary)
    content = {"select": "val/geomean_loss", **content}
    content["metrics"] |= {"val/geomean_loss": 0.5}
    write_run(folder, fake_config(seed, method, **(config or {})), content)
    records = list(recorded(seed, tasks, method == "RotoGrad"))
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return records


def values(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [record[key] for record in records if key in record]


def draw(figure: LinesFigure, folder: Path) -> Drawing:
    with styled():
        return figure.draw(find_runs([str(folder)]))


def curves(**options: Any) -> Curves:
    return Curves(name="curves", **{"y": None, **LINES, **options})


def band_of(axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge of the one band in a panel."""
    (band,) = [each for each in axes.collections if isinstance(each, PolyCollection)]
    points = band.get_paths()[0].vertices
    assert isinstance(points, np.ndarray)
    places = np.unique(points[:, 0])
    inside = [points[points[:, 0] == place, 1] for place in places]
    return np.array([p.min() for p in inside]), np.array([p.max() for p in inside])


@pytest.fixture
def two_seeds(tmp_path: Path) -> list[list[dict[str, Any]]]:
    """Records of two seeds of RotoGrad below ``tmp_path``."""
    return [make_run(tmp_path / str(seed), "RotoGrad", seed) for seed in (0, 1)]


def test_a_line_is_the_mean_of_the_records_and_the_band_their_spread(
    two_seeds: list[list[dict[str, Any]]], tmp_path: Path
) -> None:
    for band in ("minmax", "sem"):
        drawing = draw(curves(band=band), tmp_path)
        titles = [axes.get_title() for axes in drawing.canvas.axes]
        assert titles == ["geomean loss ↓", "left accuracy % ↑", "sum loss ↓", "third loss ↓"]
        assert "2 seeds" in drawing.canvas.get_suptitle()
        keys = ("val/geomean_loss", "val/left/accuracy", "val/sum/loss", "val/third/loss")
        for axes, key in zip(drawing.canvas.axes, keys, strict=True):
            both = np.array([values(records, key) for records in two_seeds])
            (line,) = axes.lines
            np.testing.assert_array_equal(line.get_xdata(), EVALUATED)
            np.testing.assert_allclose(line.get_ydata(), both.mean(0), rtol=1e-15)
            error = both.std(0, ddof=1) / math.sqrt(2)
            edges = {
                "minmax": (both.min(0), both.max(0)),
                "sem": (both.mean(0) - error, both.mean(0) + error),
            }
            np.testing.assert_allclose(band_of(axes), edges[band], rtol=1e-12)
        written = [row for row in drawing.rows if row[1] == "val/sum/loss"]
        assert [row[2] for row in written] == list(EVALUATED)
        assert {row[-1] for row in written} == {2}


def test_steps_become_epochs_and_seconds_of_training(
    two_seeds: list[list[dict[str, Any]]], tmp_path: Path
) -> None:
    expected = {"epoch": np.array(LOGGED) / 40, "time": np.array(LOGGED) * 1.5}
    for x, places in expected.items():
        (axes,) = draw(curves(x=x, y="train/sum/loss"), tmp_path).canvas.axes
        np.testing.assert_allclose(axes.lines[0].get_xdata(), places)


def test_smoothing_is_a_weighted_mean_of_the_past() -> None:
    series = np.random.default_rng(0).random(20)
    for end, value in enumerate(smoothed(series, 0.7)):
        weights = 0.7 ** np.arange(end, -1, -1)
        assert value == pytest.approx((weights * series[: end + 1]).sum() / weights.sum())


def test_maps_hold_the_mean_cosine_of_each_stretch_before_and_after_rotation(
    two_seeds: list[list[dict[str, Any]]], tmp_path: Path
) -> None:
    drawing = draw(Conflicts(name="conflicts", moments=2, **LINES), tmp_path)
    maps = [axes for axes in drawing.canvas.axes if axes.images and axes.get_title()]
    assert [axes.get_title() for axes in maps] == ["steps 10 to 60", "steps 70 to 120"] * 2
    for axes, (stage, part) in zip(
        maps, [("_before", 0), ("_before", 1), ("", 0), ("", 1)], strict=True
    ):
        drawn = axes.images[0].get_array()
        assert drawn is not None
        for (a, b), value in np.ndenumerate(np.ma.filled(drawn, np.nan)):
            if a == b:
                assert np.isnan(value)
                continue
            key = f"train/{TASKS[min(a, b)]}/{TASKS[max(a, b)]}/cosine{stage}"
            both = [values(records, key)[6 * part : 6 * part + 6] for records in two_seeds]
            assert value == pytest.approx(np.mean(both))
    lines = [line for axes in drawing.canvas.axes[-2:] for line in axes.lines]
    named = {str(line.get_label()): line for line in lines[:2]}
    for name, stage in (("RotoGrad, before", "_before"), ("RotoGrad, after", "")):
        key = f"train/conflict/mean_cosine{stage}"
        both = np.array([values(records, key) for records in two_seeds])
        np.testing.assert_allclose(named[name].get_ydata(), both.mean(0))


def test_many_tasks_have_their_extremes_named_and_no_panel_each(tmp_path: Path) -> None:
    tasks = [*TASKS, *(f"task{index:02d}" for index in range(17))]
    records = make_run(tmp_path / "run", "VanillaMTL", 0, tasks)
    figure = PerTask(name="w", quantity="weight", title="", y_label="", log=False, **LINES)
    (axes,) = draw(figure, tmp_path).canvas.axes
    last = {task: values(records, f"train/{task}/weight")[-1] for task in tasks}
    ordered = sorted(tasks, key=lambda task: -last[task])
    legend = axes.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [*ordered[:3], *ordered[-3:], "14 others"]
    for line in axes.lines:
        key = f"train/{line.get_label()}/weight"
        np.testing.assert_array_equal(line.get_ydata(), values(records, key))
    drawing = draw(curves(), tmp_path)
    assert len(drawing.canvas.axes) == 12
    assert "20 tasks: the first are drawn" in drawing.notes[-1]


def test_every_run_that_is_not_drawn_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "good", "RotoGrad", 0)
    make_run(tmp_path / "again", "RotoGrad", 0, status="interrupted")
    make_run(tmp_path / "failed", "RotoGrad", 1, status="failed")
    make_run(tmp_path / "alone", "VanillaMTL", 0, status="running")
    make_run(tmp_path / "empty", "VanillaMTL", 1)
    (tmp_path / "empty" / "metrics.jsonl").write_text("", encoding="utf-8")
    make_run(tmp_path / "bare", "VanillaMTL", 2)
    (tmp_path / "bare" / "config.yaml").unlink()
    drawing = draw(curves(y="train/sum/loss"), tmp_path)
    for name, words in {
        "again": "(interrupted), RotoGrad, seed 0 is drawn from",
        "failed": "(failed at step 120): left out beside finished runs of RotoGrad",
        "alone": "(running at step 120): drawn as far as it got for Vanilla",
        "empty": "must hold a record",
        "bare": "no config.yaml",
    }.items():
        (note,) = [note for note in drawing.notes if f"/{name}" in note.split(" is drawn")[0]]
        assert words in note
    assert {row[0] for row in drawing.rows} == {"RotoGrad", "Vanilla"}
    assert {row[-1] for row in drawing.rows} == {1}


def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path: Path) -> None:
    make_run(tmp_path / "three", "VanillaMTL", 0)
    old = {"step": 10, "epoch": 1, "train/left/loss": 1.0}
    refusals = {
        "y": (curves(y="val/lef/acuracy"), "did you mean val/left/accuracy"),
        "rotations": (
            PerTask(
                name="r", quantity="rotation_angle", title="", y_label="angle", log=False, **LINES
            ),
            "no angle in the records of Vanilla",
        ),
    }
    for figure, message in refusals.values():
        with pytest.raises(ConfigError, match=message):
            draw(figure, tmp_path)
    make_run(tmp_path / "pair", "VanillaMTL", 0, TASKS[:2], {"tasks": ["left", "sum"]})
    with pytest.raises(ConfigError, match="over all tasks, and the runs have different tasks"):
        draw(curves(y=["val/geomean_loss"]), tmp_path)
    drawing = draw(curves(), tmp_path)
    assert drawing.notes[-1].startswith("val/geomean_loss: left out")
    assert len(drawing.canvas.axes) == 3
    (tmp_path / "pair" / "metrics.jsonl").write_text(json.dumps(old) + "\n", encoding="utf-8")
    for figure, message in (
        (Conflicts(name="c", moments=2, **LINES), "train again with diagnostics=basic"),
        (curves(x="time", y="train/left/loss"), "use x=step or x=epoch"),
        (curves(x="epoch", y="train/left/loss"), "use x=step"),
        (curves(), "y='train"),
    ):
        with pytest.raises(ConfigError, match=message):
            draw(figure, tmp_path / "pair")
    make_run(tmp_path / "other", "VanillaMTL", 0, data="another")
    with pytest.raises(ConfigError, match="one data set, got"):
        draw(curves(), tmp_path)


def test_a_drawing_becomes_three_files(
    two_seeds: list[list[dict[str, Any]]], tmp_path: Path
) -> None:
    drawing = draw(curves(), tmp_path)
    with styled():
        png, pdf, table = save(drawing, tmp_path / "out", "name")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    lines = table.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "row,key,step,x,mean,low,high,seeds"
    assert len(lines) == 1 + len(drawing.rows)


def test_thirty_rows_have_styles_of_their_own_and_methods_their_colour() -> None:
    labels = [f"RotoGrad, lr={index}" for index in range(29)]
    result = styles(["Vanilla", *labels])
    assert len(set(result.values())) == 30
    assert result["RotoGrad, lr=0"] == styles(["RotoGrad"])["RotoGrad"]
