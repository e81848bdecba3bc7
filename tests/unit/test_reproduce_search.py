"""The search of a table's settings: which runs it asks for, and what it chooses."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import yaml

from rotograd_cli.commands.reproduction import launching
from rotograd_cli.commands.reproduction.cells import Cell
from rotograd_cli.commands.reproduction.estimate import plan_notes, plan_table
from rotograd_cli.commands.reproduction.plan import Planner
from rotograd_cli.commands.reproduction.reproduction import Reproduction
from rotograd_cli.commands.reproduction.search import MAX_EXTRA
from rotograd_cli.commands.reproduction.settings import parse, reproduce_config
from rotograd_cli.config.compose import composing
from rotograd_cli.config.overrides import composed
from rotograd_cli.config.schema import to_train_config
from rotograd_cli.errors import ConfigError
from rotograd_cli.runs import saved
from rotograd_cli.tables.runs import RunKey
from tests.fake_runs import fake_summary
from tests.marks import slow_unless

MODEL, METHOD = "model_optimizer.lr", "method_optimizer.lr"
OWN = 5e-4  # conf/optimizer: the method's rate without a grid
SPEC = f"""
name: mini
title: Mini
tasks: [left, sum]
overrides: [debug=smoke, logger=none, {METHOD}={OWN}]
seeds: 3
compare_with: null
grid:
  values: {{{MODEL}: [0.002, 0.004, 0.008], {METHOD}: [0.0001, 0.0005, 0.002]}}
  search: one_by_one
  widen: true
  seeds: [0]
rows:
  single: {{overrides: [method=single], per_task: true, shown: true}}
  rotograd: {{overrides: [method=rotograd], shown: true, method_grid: true}}
columns:
  sum: {{metric: sum/mse}}
"""
SELECT = "val/geomean_loss"
# lowest validation value by row and task: the network's rate, the method's
LOWEST = {
    ("single", "left"): (0.004, OWN),
    ("single", "sum"): (0.0007, OWN),  # below the grid
    ("rotograd", None): (0.5, 0.00001),  # out of reach; below the grid
}


def valley(lowest: tuple[float, float], model: float, method: float) -> float:
    """A valley around the lowest, along which the two rates trade off a little."""
    x, y = math.log(model / lowest[0]), math.log(method / lowest[1])
    return x * x + y * y + 0.3 * x * y


def rates_of(cell: Cell) -> tuple[float, float]:
    return cell.config.model_optimizer["lr"], cell.config.method_optimizer["lr"]


def value(cell: Cell) -> float:
    return valley(LOWEST[cell.place], *rates_of(cell))


def write(cells: Sequence[Cell], of: Callable[[Cell], float] = value) -> None:
    """Finished runs, without training; the sum of the losses prefers the largest rate."""
    for cell in cells:
        tasks = [cell.run.task] if cell.run.task else ["left", "sum"]
        summary = fake_summary({"sum/mse": 2.0}, cell.run.seed, select=SELECT, tasks=tasks)
        loss = -cell.config.model_optimizer["lr"]
        summary["metrics"] |= {SELECT: of(cell), "val/loss": loss, "val/sum/mse": loss}
        cell.run_dir.mkdir(parents=True, exist_ok=True)
        (cell.run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(cell.config)))
        (cell.run_dir / "summary.json").write_text(json.dumps(summary))


def words(root: Path, *others: str) -> Sequence[str]:
    folders = ("--config-dir", str(root / "conf"), f"paths.output_dir={root / 'outputs'}")
    return ("table=mini", *folders, *others)


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    write_spec(tmp_path, SPEC)
    return tmp_path


def write_spec(root: Path, text: str) -> None:
    (root / "conf" / "table").mkdir(parents=True, exist_ok=True)
    (root / "conf" / "table" / "mini.yaml").write_text(text)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reproduction, list[Cell]]:
    """A reproduction that has run, with what it launched."""
    root = tmp_path_factory.mktemp("search")
    write_spec(root, SPEC)
    launched: list[Cell] = []

    def launch(cells: Sequence[Cell], _: Sequence[str]) -> None:
        write(cells)
        launched.extend(cells)

    reproduction = Reproduction(parse("reproduce", words(root)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "launch", launch)
        reproduction.run()
    return root, reproduction, launched


def lowest_of(axis: list[float], at: Callable[[float], float]) -> tuple[float, list[float]]:
    """The best of an axis that is extended at its ends, and what was tried."""
    for _ in range(MAX_EXTRA):
        axis.sort()
        best = min(axis, key=at)
        if best == axis[0]:
            axis.append(float(f"{axis[0] * axis[0] / axis[1]:.3g}"))
        elif best == axis[-1]:
            axis.append(float(f"{axis[-1] * axis[-1] / axis[-2]:.3g}"))
    return min(axis, key=at), axis


def test_each_row_is_searched_one_key_after_the_other_and_beyond_the_edges(
    searched: tuple[Path, Reproduction, list[Cell]],
) -> None:
    _, reproduction, launched = searched
    expected: set[tuple[object, ...]] = set()
    best = {search.place: search.best for search in reproduction.searches}
    for place, lowest in LOWEST.items():
        rate, rates = lowest_of([0.002, 0.004, 0.008], partial(valley, lowest, method=OWN))
        expected |= {(*place, 0, x, OWN) for x in rates}
        own = OWN
        if place[0] == "rotograd":
            own, others = lowest_of([0.0001, 0.0005, 0.002], partial(valley, lowest, rate))
            expected |= {(*place, 0, rate, y) for y in others}
        expected |= {(*place, seed, rate, own) for seed in (1, 2)}
        chosen = best[place]
        assert chosen is not None
        assert (chosen.point[MODEL], chosen.point.get(METHOD, OWN)) == (rate, own)
    trained = [(*cell.place, cell.run.seed, *rates_of(cell)) for cell in launched]
    assert set(trained) == expected
    assert len(trained) == len(expected)  # none twice: that of the default is shared
    notes = reproduction.table().footnotes
    assert "Best at an edge of the grid, so that values beyond it may be better: RotoGrad." in notes
    assert not reproduction.failures()


def test_a_plan_says_what_is_sure_and_what_widening_may_add(mini: Path) -> None:
    reproduction = Reproduction(parse("reproduce", words(mini)))
    plan = plan_table(reproduction.planner, reproduction.searches, reproduction.final_cells, {})
    # three of an axis and two more seeds for each place; the method's rate has two values more
    assert int(plan.rows[-1][3].text) == 3 * (3 + 2) + 2
    note = plan_notes(plan, reproduction.searches, reproduction.cells)[0]
    assert note.startswith(f"Up to {4 * MAX_EXTRA} more runs are needed")  # four axes


def test_a_plan_says_which_of_its_runs_failed_before(mini: Path) -> None:
    grid = ("table.grid=null", "methods=[rotograd]")
    first = Reproduction(parse("reproduce", words(mini, *grid)))
    write(first.cells, lambda _: 0.0)
    for cell in first.cells[:2]:
        path = cell.run_dir / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "status": "failed"}))
    second = Reproduction(parse("reproduce", words(mini, *grid)))
    plan = second.plan()
    assert int(plan.rows[-1][3].text) == 2
    (note,) = plan_notes(plan, second.searches, second.cells)
    assert note == "Of the 2 runs to train, 2 failed before; every call tries them once more."


def test_another_metric_chooses_among_what_was_tried(
    searched: tuple[Path, Reproduction, list[Cell]],
) -> None:
    """It adds no run to the grid; networks of a single task keep their own."""
    root, reproduction, _ = searched
    by_loss = Reproduction(parse("reproduce", words(root, "table.grid.select=val/loss")))
    own = {search.place: search for search in reproduction.searches}
    other = {search.place: search for search in by_loss.searches}
    for place, search in own.items():
        assert [c.point for c in search.candidates] == [c.point for c in other[place].candidates]
    assert own["single", "sum"].best == other["single", "sum"].best
    best = other["rotograd", None].best
    assert best is not None
    assert best.point[MODEL] == max(c.point[MODEL] for c in own["rotograd", None].candidates)
    assert by_loss.spec.grid is not None
    by_loss.spec.grid.select = "val/los"
    with pytest.raises(ConfigError, match="got 'val/los'; did you mean val/loss"):
        by_loss.refresh()


def test_a_default_outside_of_the_axis_begins_the_search_and_is_not_chosen(mini: Path) -> None:
    others = ("methods=[rotograd]", "method_optimizer.lr=0.0003", "table.grid.widen=false")
    reproduction = Reproduction(parse("reproduce", words(mini, *others)))
    write(reproduction.grid_cells, lambda _: 0.0)  # nothing that follows is better
    reproduction.refresh()
    assert len([cell for cell in reproduction.grid_cells if not cell.finished]) == 3
    write(reproduction.grid_cells, lambda cell: float(cell.point[METHOD] != 0.0003))
    reproduction.refresh()
    (search,) = reproduction.searches
    assert search.best is not None
    assert search.best.point == {MODEL: 0.002, METHOD: 0.0001}


AXES = {
    "text": "model_optimizer._target_: [torch.optim.Adam, torch.optim.RAdam]",
    "choice": "scheduler@model_scheduler: [constant, cosine]",
    "boolean": "compile: [true, false]",
    "whole": "train.epochs: [1, 2]",
    "added": "+model_optimizer.foreach: [true, false]",
    "quoted": "device: ['cuda:0', 'a b', '1']",
}


@pytest.mark.parametrize("kind", slow_unless(["text", "choice"], list(AXES)))
def test_a_cell_is_the_run_that_its_overrides_compose(mini: Path, kind: str) -> None:
    """Whatever the values are: Hydra composes what is launched."""
    content = yaml.safe_load(SPEC)
    content["grid"]["values"] = yaml.safe_load(f"{{{AXES[kind]}}}")
    write_spec(mini, yaml.safe_dump(content))
    arguments = parse("reproduce", words(mini, "scheduler@method_scheduler=cosine"))
    spec = reproduce_config(arguments.table).table.select(["rotograd"])
    planner = Planner(spec, [0], arguments.runs)
    ((key, values),) = planner.axes("rotograd").items()
    with composing():
        for seed, each in enumerate(values):
            cell = planner.cell(RunKey("rotograd", seed, "left"), {key: each})
            launched = to_train_config(composed("train", cell.overrides))
            assert saved.key(asdict(cell.config)) == saved.key(asdict(launched))
            assert (cell.config.device, cell.config.tasks) == (launched.device, ["left"])
