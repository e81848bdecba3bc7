"""`rotograd reproduce`: what is planned, trained, left alone, chosen and shown."""

import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rotograd_cli.commands.reproduction.estimate import UNKNOWN
from tests.counting import CountOperations
from tests.forked import Forked
from tests.waiting import PATIENCE_S, wait_for

from .conftest import Cli, Result

SPEC = """# Two rows of the embedded digits, one with a grid of its own.
name: mini
title: Mini
tasks: [left, sum]
overrides: [debug=smoke, logger=none, data.partners=1, "tasks=[left,sum]"]
seeds: 2
base: single
delta: paper
grid:
  values:
    model_optimizer.lr: [1.0e-3, 2.0e-3]
    method_optimizer.lr: [5.0e-4, 2.0e-3]
  seeds: [0]
rows:
  single: {label: Single, overrides: [method=single], per_task: true, shown: true}
  vanilla: {label: Vanilla, overrides: [method=vanilla], shown: true}
  rotograd: {label: RotoGrad, overrides: [method=rotograd], shown: true, method_grid: true}
columns:
  gain: {label: Δ, delta_of: [left, sum]}
  sum: {metric: sum/mse}
paper:
  source: a source
  rows:
    rotograd: {gain: [2.12, 2.23]}
"""
pytestmark = pytest.mark.xdist_group("reproduce")  # what is trained once serves all tests
WORDS = ("reproduce", "table=mini", "--config-dir", "conf")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# 2 tasks x 2 rates + 2 rates + 2 x 2 rates in the grid, then the chosen of 4 places at seed 1
NUM_GRID, NUM_ALL = 10, 14


def write_spec(folder: Path) -> None:
    (folder / "conf" / "table").mkdir(parents=True)
    (folder / "conf" / "table" / "mini.yaml").write_text(SPEC, encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished reproduction, in a process of its own as a user has it."""
    root = tmp_path_factory.mktemp("reproduction")
    write_spec(root)
    process = Forked(WORDS, root, ONE_THREAD)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode is not None
    return root, Result(process.returncode, out, err)


@pytest.fixture
def again(cli: Cli, finished: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy of it in the working directory."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def runs(root: Path) -> dict[Path, dict[str, Any]]:
    folders = sorted((root / "outputs" / "cells").glob("*/summary.json"))
    return {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in folders}


def to_train(result: Result) -> int:
    """What the plan's last row says is left."""
    total = next(line for line in result.out.splitlines() if line.startswith("│ all"))
    return int(total.split("│")[4])


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def chosen_run(root: Path, row: str, seed: int, task: str = "") -> dict[str, Any]:
    """Summary of the run of a row's chosen setting."""
    grid = lines(root / "outputs" / "tables" / "mini" / "grid.csv")
    (best,) = [x for x in grid if (x["row"], x["task"], x["chosen"]) == (row, task, "1")]
    words = {f"method={row}", f"seed={seed}", *([f"tasks=[{task}]"] if task else [])}
    for key in ("model_optimizer.lr", "method_optimizer.lr"):
        words |= {f"{key}={float(best[key])!r}"} if best[key] else set()
    (run,) = [summary for summary in runs(root).values() if words <= set(summary["overrides"])]
    return run


def test_every_cell_is_trained_once_and_the_table_is_of_the_chosen_settings(
    finished: tuple[Path, Result],
) -> None:
    root, result = finished
    assert result.code == 0, result.err
    found = runs(root)
    assert len(found) == NUM_ALL
    assert {summary["status"] for summary in found.values()} == {"finished"}

    grid = lines(root / "outputs" / "tables" / "mini" / "grid.csv")
    assert len(grid) == NUM_GRID
    by_place: dict[tuple[str, str], list[dict[str, str]]] = {}
    for line in grid:
        by_place.setdefault((line["row"], line["task"]), []).append(line)
    assert set(by_place) == {
        ("single", "left"), ("single", "sum"), ("vanilla", ""), ("rotograd", "")
    }  # fmt: skip
    for group in by_place.values():
        best = min(group, key=lambda line: float(line["validation"]))
        assert [line["chosen"] for line in group].count("1") == 1
        assert best["chosen"] == "1"

    values = {
        (line["row"], line["column"], line["seed"]): float(line["value"])
        for line in lines(root / "outputs" / "tables" / "mini" / "table.csv")
    }
    for row, seed in (("vanilla", 0), ("vanilla", 1), ("rotograd", 0), ("rotograd", 1)):
        run = chosen_run(root, row, seed)
        assert values[row, "sum", str(seed)] == run["metrics"]["test/sum/mse"]
    assert "2.12 ± 2.23" in result.out
    page = (root / "outputs" / "tables" / "mini" / "table.md").read_text(encoding="utf-8")
    assert "every row took its best on validation" in page


def test_what_is_finished_is_not_trained_again(cli: Cli, again: Path) -> None:
    before = {path: (path / "summary.json").stat().st_mtime_ns for path in runs(again)}
    result = cli(*WORDS)
    assert result.code == 0, result.err
    assert {path: (path / "summary.json").stat().st_mtime_ns for path in runs(again)} == before
    assert to_train(result) == 0


@pytest.mark.slow
def test_an_edited_setting_is_trained_and_the_others_are_left_alone(cli: Cli, again: Path) -> None:
    before = set(runs(again))
    words = (*WORDS, "methods=[vanilla]", "train.batch_size=32", "table.grid=null", "seeds=1")
    result = cli(*words)
    assert result.code == 0, result.err
    new = set(runs(again)) - before
    assert len(new) == 3  # vanilla, and both tasks alone, which its gain needs
    again_result = cli(*words)
    assert set(runs(again)) - before == new
    assert again_result.code == 0


@pytest.mark.slow
def test_device_and_logger_are_no_part_of_a_setting(cli: Cli, again: Path) -> None:
    before = set(runs(again))
    result = cli(*WORDS, "device=cpu", "tags=[mine]", "plan=true")
    assert result.code == 0, result.err
    assert set(runs(again)) == before
    assert to_train(result) == 0


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True], ids=["checkpoint", "no_checkpoint"])
def test_an_interrupted_cell_goes_on_from_its_last_checkpoint(
    cli: Cli, again: Path, damaged: bool
) -> None:
    cell = next(iter(runs(again)))
    wanted = json.loads((cell / "summary.json").read_text())["metrics"]
    content = json.loads((cell / "summary.json").read_text()) | {"status": "running", "metrics": {}}
    (cell / "summary.json").write_text(json.dumps(content))
    if damaged:
        for path in (cell / "checkpoints").iterdir():
            path.write_bytes(path.read_bytes()[:100])
    (cell / "left_over").write_text("of the interrupted attempt")
    result = cli(*WORDS)
    assert result.code == 0, result.err
    assert json.loads((cell / "summary.json").read_text())["metrics"] == wanted
    assert (cell / "left_over").exists() != damaged  # begun anew only where it cannot go on


@pytest.mark.slow
def test_a_damaged_configuration_of_a_cell_means_it_is_trained_again(cli: Cli, again: Path) -> None:
    cell = next(path for path, summary in runs(again).items() if summary["seed"] == 1)
    text = (cell / "config.yaml").read_text()
    (cell / "config.yaml").write_text(text.replace("batch_size: ", "batch_size: 1"))
    result = cli(*WORDS, "plan=true")
    assert to_train(result) == 1
    assert cli(*WORDS).code == 0
    assert (cell / "config.yaml").read_text() == text


@pytest.mark.slow
def test_what_a_strangers_cells_name_is_not_built(
    cli: Cli, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells are built from the table; one that holds another configuration is trained anew."""
    (again / "evil.py").write_text("from pathlib import Path\nPath('hacked').touch()\n")
    monkeypatch.syspath_prepend(str(again))
    last = next(path for path, summary in runs(again).items() if summary["seed"] == 1)
    for cell in runs(again):
        config = yaml.safe_load((cell / "config.yaml").read_text())
        config["logger"] = {"_target_": "evil.Logger"}  # no part of what a cell is found by
        if cell == last:
            config["backbone"] = {"_target_": "evil.Net"}
        (cell / "config.yaml").write_text(yaml.safe_dump(config))
    assert to_train(cli(*WORDS, "plan=true")) == 1
    result = cli(*WORDS)
    assert result.code == 0, result.err
    assert "evil" not in (last / "config.yaml").read_text()
    assert "evil" not in sys.modules
    assert not (again / "hacked").exists()


def test_a_failed_cell_is_marked_never_averaged_and_the_exit_code_says_so(
    cli: Cli, again: Path
) -> None:
    result = cli(
        *WORDS, "model_optimizer.lr=1e30", "table.grid=null", "methods=[vanilla]", "seeds=1"
    )
    assert result.code == 1
    assert "failed:" in result.err
    assert "NaN" in result.err or "nan" in result.err or "inf" in result.err
    assert "no run" in result.out or "Incomplete" in result.out


def test_a_plan_trains_nothing_and_estimates_from_what_is_there(cli: Cli, again: Path) -> None:
    before = set(runs(again))
    result = cli(*WORDS, "plan=true", "seeds=4")
    assert result.code == 0, result.err
    assert set(runs(again)) == before
    assert to_train(result) == 8  # 4 places at two more seeds
    assert UNKNOWN not in result.out


@pytest.mark.slow
def test_a_plan_counts_the_seeds_of_rows_whose_grid_is_finished(cli: Cli, again: Path) -> None:
    rate = "table.grid.values={method_optimizer.lr:[5.0e-4,2.0e-3,8.0e-3]}"
    result = cli(*WORDS, "plan=true", rate)
    # two settings of RotoGrad are new; what it takes then may be another setting at seed 1 too
    assert to_train(result) == 3, result.out
    vanilla = next(line for line in result.out.splitlines() if "Vanilla" in line)
    assert [int(cell) for cell in vanilla.split("│")[2:5]] == [3, 3, 0]


@pytest.mark.slow
def test_a_plan_without_any_run_times_a_few_steps_and_writes_nothing(
    cli: Cli, tmp_path: Path, finished: tuple[Path, Result]
) -> None:
    write_spec(tmp_path)
    result = cli(*WORDS, "plan=timed")
    assert result.code == 0, result.err
    assert to_train(result) == NUM_ALL
    assert UNKNOWN not in result.out
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_plan_needs_no_data_and_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from rotograd_cli.cli import main; "
        "code = main(['reproduce', 'table=multimnist', 'plan=true']); "
        "sys.exit(code or int('torch' in sys.modules))"
    )
    variables = {key: value for key, value in os.environ.items() if key != "ROTOGRAD_DATA"}
    words = [sys.executable, "-c", code]
    result = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"Hours are {UNKNOWN}" in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_time_of_a_run_is_foretold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that counts operations: what seconds a machine takes for them is its own."""
    from hydra import compose

    from rotograd_cli.commands.reproduction.timing import measured_seconds
    from rotograd_cli.config.compose import composing
    from rotograd_cli.config.schema import to_train_config
    from rotograd_cli.runs.experiment import train

    with composing():
        small = ["data.partners=2", "train.epochs=2", "train.eval_batch_size=500"]
        words = ["method=vanilla", "logger=none", *small]
        config = to_train_config(compose("train", words))
    with CountOperations() as operations:
        clock = SimpleNamespace(monotonic=lambda: operations.num)
        monkeypatch.setattr("rotograd_cli.commands.reproduction.timing.time", clock)
        foretold = measured_seconds(config)
        before = operations.num
        train(config, tmp_path / "run", screen=None)
    assert foretold / 2 < operations.num - before < foretold * 2


@pytest.mark.slow
def test_a_kill_costs_the_cells_that_were_being_trained_and_no_more(tmp_path: Path) -> None:
    write_spec(tmp_path)
    process = Forked(WORDS, tmp_path, ONE_THREAD)
    wait_for(lambda: sum(s["status"] == "finished" for s in runs(tmp_path).values()) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = {
        path: (path / "summary.json").stat().st_mtime_ns
        for path, summary in runs(tmp_path).items()
        if summary["status"] == "finished"
    }
    second = Forked(WORDS, tmp_path, ONE_THREAD)
    _, err = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0, err
    assert {path: (path / "summary.json").stat().st_mtime_ns for path in done} == done
    assert len(runs(tmp_path)) == NUM_ALL


@pytest.mark.slow
def test_two_processes_share_a_table_without_training_a_cell_twice(
    finished: tuple[Path, Result], tmp_path: Path
) -> None:
    write_spec(tmp_path)
    words = (*WORDS, "table.grid=null", "methods=[vanilla]", "seeds=2")
    both = [Forked(words, tmp_path, ONE_THREAD) for _ in range(2)]
    ends = [process.communicate(timeout=PATIENCE_S) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    said = "".join(err for _, err in ends)
    assert said.count("val/geomean_loss") == 6  # each of vanilla and two tasks at two seeds, once


@pytest.mark.slow
def test_a_cell_that_is_being_trained_elsewhere_is_waited_for(cli: Cli, again: Path) -> None:
    cell = next(iter(runs(again)))
    content = json.loads((cell / "summary.json").read_text())
    (cell / "summary.json").write_text(json.dumps(content | {"status": "running"}))
    lock = (again / "outputs" / "cells" / f".{cell.name}.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = Forked(WORDS, again, ONE_THREAD)
    wait_for(lambda: "waiting" in process.said(), process)
    (cell / "summary.json").write_text(json.dumps(content))  # the other process has finished
    lock.close()
    process.communicate()
    assert process.returncode == 0


WRONG = {
    "table=multimist": "Did you mean multimnist",
    "": "table",
    "table=mini methods=[rotogard]": "did you mean rotograd",
    "table=mini +table.rows={fammo:{shown:true}}": "must train other runs than row",
    "table=mini seeds=0": "`seeds`",
    "table=mini train.epocs=3": "did you mean train.epochs",
    "table=mini seed=3": "seeds=",
    "table=mini method=vanilla": "methods=[",
    "table=mini statistic=average": "median_std",
    "table=mini hydra/launcher=nonsense": "nonsense",
    "mini": "table=mini",
    "table=mini -m": "-m",
    "table=mini data.partners=-1": "partners",
    "table=mini table.grid.values.model_optimizer.lr=[1e-3]": (
        "'+table.grid.values={model_optimizer.lr:[VALUE,...]}'"
    ),
    "table=mini table.grid={values:{a.b:[1.0,2.0]}}": (
        "add it with '+table.grid={values:{a.b:[1.0,2.0]}}'"
    ),
    "table=mini table.grid.values={a.b:[1.0,2.0]}": "add it with '+table.grid.values={a.b",
    "table=mini table.grid={vals:{}}": "did you mean table.grid.values?",
    "table=mini table.columns.sum.metric=sum/rmse": "did you mean sum/mse?",
    "table=mini table.tasks=[left,sun] table.columns.gain.delta_of=[left]": "did you mean sum?",
    "table=mini plan=maybe": "`plan` must be true, false or timed",
    "table=mini table.grid.select=val/sum/rmse": "did you mean val/sum/mse?",
    "table=mini +table.grid.values={train.epochs:[1,many]} plan=true": "a whole number is needed",
    "table=misspelt": "In 'table/misspelt': `table.seed` is not a key; did you mean table.seeds?",
    "table=null_grid table.grid={values:{a.b:[1.0,2.0]}}": "while `table.grid` is null",
    "table=null_grid +table.grid.values={a.b:[1.0,2.0]}": "while `table.grid` is null",
    "table=no_grid +table.grid.values={model_optimizer.lr:[1e-3]}": "table.grid.seeds=[0]",
    "table=copied": "write name: copied",
    'table=mini +table.rows.gls={overrides:["method=gls"]}': (
        """write '+table.rows={gls:{overrides:["method=gls"]}}'."""
    ),
}


def write_variants(folder: Path) -> None:
    """Tables that differ from :data:`SPEC` in a key."""
    content = yaml.safe_load(SPEC)
    del content["grid"]
    additions = {
        "no_grid": {},
        "null_grid": {"grid": None},
        "misspelt": {"seed": 2},
        "copied": {"name": "mini"},
    }
    for name, others in additions.items():
        text = yaml.safe_dump(content | {"name": name} | others)
        (folder / "conf" / "table" / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_a_table_without_a_grid_can_be_given_one(cli: Cli, tmp_path: Path) -> None:
    write_spec(tmp_path)
    write_variants(tmp_path)
    words = ("reproduce", "table=no_grid", "--config-dir", "conf", "seeds=1", "plan=true")
    grid = ("+table.grid.values={model_optimizer.lr:[1e-3,2e-3]}", "table.grid.seeds=[0]")
    result = cli(*words, *grid)
    assert result.code == 0, result.err
    assert to_train(result) == 2 * (2 + 1 + 1)
    result = cli(*words)
    assert to_train(result) == 2 + 1 + 1


def test_wrong_input_is_one_line(cli: Cli, tmp_path: Path) -> None:
    write_spec(tmp_path)
    write_variants(tmp_path)
    for words, message in WRONG.items():
        result = cli("reproduce", "--config-dir", "conf", *words.split())
        assert result.code == 2, (words, result.out, result.err)
        assert message in result.err
        assert len(result.err.strip().splitlines()) == 1
        assert not list(tmp_path.rglob("summary.json"))


# ---- rotograd plot


def test_the_bars_of_the_gains_are_the_gains_of_the_runs(
    cli: Cli, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure
    from PIL import Image

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))[1]
    )
    result = cli("plot", "figure=gains", "table=mini", "--config-dir", "conf", "output=figures")
    assert result.code == 0, result.err
    with Image.open(again / "figures" / "gains.png") as image:
        assert image.width == 1200
    assert (again / "figures" / "gains.pdf").read_bytes().startswith(b"%PDF")

    heights = {}
    for place, row in enumerate(("vanilla", "rotograd")):
        heights[row] = [axes.patches[place].get_height() for axes in drawn[0].axes]
    for row, (left, total) in heights.items():
        for key, sign, height in (("left/accuracy", 1, left), ("sum/mse", -1, total)):
            gains = []
            for seed in (0, 1):
                single = chosen_run(again, "single", seed, key.split("/")[0])
                base = single["metrics"][f"test/{key}"]
                value = chosen_run(again, row, seed)["metrics"][f"test/{key}"]
                gains.append(sign * 100 * (value - base) / base)
            assert height == pytest.approx(sum(gains) / 2)  # the median of two


@pytest.mark.slow
def test_boxes_hold_every_seed_of_every_row(
    cli: Cli, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    seen: list[list[list[float]]] = []
    draw = Axes.boxplot
    monkeypatch.setattr(
        Axes, "boxplot", lambda self, x, **k: (seen.append(x), draw(self, x, **k))[1]
    )
    result = cli(
        "plot", "figure=rotation_lr", "table=mini", "--config-dir", "conf", "methods=[vanilla]"
    )
    assert result.code == 0, result.err
    values = [
        float(line["value"])
        for line in lines(again / "outputs" / "tables" / "mini" / "table.csv")
        if line["row"] == "vanilla" and line["column"] == "sum"
    ]
    assert seen == [[values]]
    assert (again / "outputs" / "tables" / "mini" / "rotation_lr.pdf").is_file()


@pytest.mark.slow
def test_sensitivity_shows_the_candidates_of_the_grid(cli: Cli, again: Path) -> None:
    words = ("figure=sensitivity", "table=mini", "--config-dir", "conf", "figure.columns=[gain]")
    result = cli("plot", *words)
    assert result.code == 0, result.err
    folder = again / "outputs" / "tables" / "mini"
    tried = {
        (line["row"], float(line["model_optimizer.lr"]), line["chosen"]): float(line["validation"])
        for line in lines(folder / "grid.csv")
        if line["row"] == "vanilla"
    }
    drawn = {
        (line["row"].lower(), float(line["value"]), line["chosen"]): float(line["val/geomean_loss"])
        for line in lines(folder / "sensitivity.csv")
        if line["row"].lower() == "vanilla"
    }
    assert drawn == tried
    # the gain of the chosen setting at the grid's seed is the table's
    of_seed_0 = {
        line["row"]: float(line["value"])
        for line in lines(folder / "table.csv")
        if line["column"] == "gain" and line["seed"] == "0"
    }
    gains = [line for line in lines(folder / "sensitivity.csv") if line["chosen"] == "1"]
    assert {float(line["test Δ %"]) for line in gains} == set(of_seed_0.values())


WRONG_FIGURES = {
    "figure=gain": "Did you mean gains",
    "figure=gains figure.columns=[lefft]": "did you mean left",
    "figure=rotation_lr figure.columns=[pixels]": "choose from gain, sum",
    "figure=gains figure.kind=bars": "keys of `figure` here",
    "figure=gains": "rotograd reproduce table=mini",
    "figure=gains table=[mini,mini2]": "is of one table, got table=[mini,mini2]",
    "figure=sensitivity runs=conf": "leave it out and name the table, table=NAME",
    "figure=sensitivity figure.columns=[summ]": "did you mean sum",
    "figure=sensitivity": "rotograd reproduce table=mini",
    "figure=sensitivity table.grid=null": "several values for a row, got 'mini' without",
    "figure=ranks figure.columns=[sun]": "did you mean sum",
    "figure=ranks methods=[vanilla]": "rotograd reproduce table=mini",
}


def test_wrong_input_of_a_figure_is_one_line(cli: Cli, tmp_path: Path) -> None:
    write_spec(tmp_path)
    for words, message in WRONG_FIGURES.items():
        result = cli("plot", "table=mini", "--config-dir", "conf", *words.split())
        assert result.code == 2, (words, result.out, result.err)
        assert message in result.err
        assert len(result.err.strip().splitlines()) == 1
