"""The page of step times: its tables come from the figures and targets that lie beside it."""

import importlib.util
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra import compose

from rotograd_cli.config.compose import composing

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("performance", ROOT / "scripts/performance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_targets_of_the_one_file_that_has_them(script: ModuleType) -> None:
    page = ROOT / "docs" / "performance.md"
    tables = script.Pages(page).tables()
    message = "run: python scripts/performance.py --render"
    assert tables in page.read_text(encoding="utf-8"), message


def test_every_target_has_a_name_for_readers_and_every_row_a_measure(script: ModuleType) -> None:
    for device in script.DEVICES:
        for row in script.read_rows(device):
            assert {*row.at_most, *row.at_least} <= script.QUANTITIES.keys(), row.name
            assert row.measure in script.MEASURES, row.name


def test_ratios_speedup_and_memory_are_those_of_the_medians(script: ModuleType) -> None:
    def contender(name: str, ratio: float, peak_bytes: int) -> dict[str, Any]:
        return {"name": name, "ratio": {"median": ratio}, "peak_bytes": peak_bytes}

    numbers = [("vanilla", 1.0, 80), ("rotograd", 1.5, 100), ("rotogradnorm", 2.0, 9)]
    result = {"contenders": [contender(*n) for n in (*numbers, ("reference", 90.0, 9))]}
    values = script.values_of(result)
    assert (values["rotograd"], values["speedup"], values["memory"]) == (1.5, 45.0, 1.25)


def test_a_target_is_met_up_to_its_bound_and_no_further(script: ModuleType) -> None:
    row = script.Row("a", "", "", at_most={"vanilla": 1.02}, at_least={"speedup": 45}, note="why")
    for vanilla, speedup, expected in (
        (1.024, 45.0, ["met", "met"]),
        (1.026, 44.9, ["not met (why)", "not met (why)"]),
    ):
        grid = script.targets([row], {"a": {"vanilla": vanilla, "speedup": speedup}})
        assert [line[-1].text for line in grid.rows] == expected
    assert [line[-1].text for line in script.targets([row], {}).rows] == ["not measured"] * 2


def test_a_row_that_is_measured_again_replaces_itself_alone(
    script: ModuleType, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    generated = f"{script.BEGIN}\nto be replaced\n{script.END}"
    page.write_text(f"Before.\n\n{generated}\n\nAfter.\n", encoding="utf-8")
    pages = script.Pages(page)
    rows = {row.name: row for row in script.read_rows("cuda")}
    for name, value in (("linear40", 9.0), ("default", 1.1), ("linear40", 8.5)):
        section = f"## {name} {value}\n"
        pages.add("cuda", rows[name], script.Measured({"rotogradnorm": value}, section))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "to be replaced" not in text
    assert "| 8.50 |" in text
    details = (tmp_path / "page" / "cuda.md").read_text(encoding="utf-8")
    headings = [line for line in details.splitlines() if line.startswith("## ")]
    assert headings == ["## default 1.1", "## linear40 8.5"]  # in the order of targets.yaml


@pytest.mark.slow
def test_every_command_composes(script: ModuleType) -> None:
    with composing():
        for device in script.DEVICES:
            for row in script.read_rows(device):
                command, *overrides = shlex.split(row.command)
                compose(command, overrides=overrides)
