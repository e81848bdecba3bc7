"""rotograd plot figure=toy: what it draws is what rotograd train experiment=toy does."""

import csv
from pathlib import Path

import pytest

from rotograd_cli.figures.toy_paths import configuration, trajectory
from tests.records import records

from .conftest import Cli

STEPS = 12


def test_watched_trajectory_ends_where_the_run_of_that_seed_does(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = ("experiment=toy", f"train.epochs={STEPS}", "seed=1", "logger=none", "device=cpu")
    assert cli("train", *overrides, f"hydra.run.dir={run}").code == 0
    last = next(record for record in reversed(records(run)) if "val/left/distance" in record)
    path = trajectory(configuration("nonconvex", "rotograd", STEPS), seed=1)
    recorded = [last[f"val/{task}/distance"] for task in ("left", "right")]
    assert path.distances.tolist() == pytest.approx(recorded, rel=1e-6)
    # what a table counts is what the figure calls reached: both, that is the larger one
    assert last["val/max_distance"] == pytest.approx(path.distances.max(), rel=1e-6)
    assert len(path.points) == STEPS + 1


@pytest.mark.slow
def test_figure_counts_the_starts_that_reached_both_optima(cli: Cli, tmp_path: Path) -> None:
    options = ("figure.starts=2", f"figure.steps={STEPS}", "figure.methods=[rotograd]")
    drawn = cli("plot", "figure=toy", *options, f"output={tmp_path}", "figure.tolerance=9")
    assert drawn.code == 0, drawn.err
    assert "of 2 starts, so many end within 9 of both optima: RotoGrad 2." in drawn.out
    rows = list(csv.DictReader((tmp_path / "toy.csv").read_text().splitlines()))
    assert [(row["problem"], row["start"], row["reached"]) for row in rows] == [
        (problem, start, "1") for problem in ("convex", "nonconvex") for start in "01"
    ]
    path = trajectory(configuration("nonconvex", "rotograd", STEPS), seed=1)
    drawn_end = [float(rows[-1][f"distance_{task}"]) for task in ("left", "right")]
    assert drawn_end == path.distances.tolist()


def test_wrong_options_of_the_figure_are_refused_in_one_line(cli: Cli) -> None:
    for option, message in (
        ("figure.starts=0", "`figure.starts` must be at least 1, got 0"),
        ("figure.tolerance=0", "`figure.tolerance` must be"),
        ("figure.methods=[rotogrd]", "rotogrd"),
        ("figure.problems=[]", "`figure.problems` must name at least one, got []"),
        ("figure.views=[z]", "must be backbone or tasks, got 'z'; 'figure.views=[backbone]'"),
        ("runs=outputs", "is made of no runs"),
    ):
        result = cli("plot", "figure=toy", "figure.steps=1", option)
        assert result.code == 2, (option, result.out, result.err)
        assert message in result.err
        assert result.err.count("\n") == 1
