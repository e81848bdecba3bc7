"""What a sweep prints at its end, from the cells' folders."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from rotograd_cli.commands.support.session import failures
from rotograd_cli.commands.sweeps.cells import Folders
from tests.fake_runs import fake_summary

KEY = "val/geomean_loss"


@pytest.fixture(autouse=True)
def _no_failures() -> Iterator[None]:
    failures.clear()
    yield
    failures.clear()


def put_cell(sweep: Path, number: int, value: float | None, **others: Any) -> None:
    summary = fake_summary({"left/accuracy": 0.9}, select=KEY, **others)
    summary["metrics"][KEY] = value
    (sweep / str(number)).mkdir(parents=True)
    (sweep / str(number) / "summary.json").write_text(json.dumps(summary))


def printed(sweep: Path, capsys: pytest.CaptureFixture[str], found: Mapping[str, Any]) -> str:
    (sweep / "optimization_results.yaml").write_text(yaml.safe_dump(dict(found)))
    hydra = {"sweep": {"dir": str(sweep)}, "sweeper": {"_target_": "some.OptunaSweeper"}}
    config = {"hydra": hydra, "train": {"select_mode": "min"}}
    Folders().on_multirun_end(OmegaConf.create(config))
    return capsys.readouterr().out


def test_a_search_shows_the_value_it_searched_beside_every_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_cell(tmp_path, 0, 0.5)
    put_cell(tmp_path, 1, 0.25)
    out = printed(tmp_path, capsys, {"best_params": {"lr": 0.1}, "best_value": 0.25})
    assert f"searched {KEY}" in out
    assert "0.5000" in out
    assert "0.2500 (1)" in out
    assert "Best value 0.25 with lr=0.1" in out
    assert failures == []


@pytest.mark.parametrize("worst", [math.inf, -math.inf, math.nan])
def test_a_search_of_which_no_trial_finished_names_no_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], worst: float
) -> None:
    put_cell(tmp_path, 0, 0.5, status="failed", error="The loss became nan.")
    out = printed(tmp_path, capsys, {"best_params": {"lr": 0.1}, "best_value": worst})
    assert "Best" not in out
    assert "lr=0.1" not in out
    assert "No trial finished; fix what the failed cells name, or search other ranges." in out
    assert len(failures) == 2  # the exit code is 1


def test_a_cell_that_was_selected_by_nothing_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_cell(tmp_path, 0, None)
    printed(tmp_path, capsys, {"solutions": []})
    assert failures == [f"{tmp_path / '0'}: no finite {KEY}"]
