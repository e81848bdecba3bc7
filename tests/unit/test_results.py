"""scripts/results.py: what is put into a page, and that making it again changes nothing."""

import importlib
import json
import shlex
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from rotograd_cli.commands.reproduction.estimate import UNKNOWN
from rotograd_cli.commands.reproduction.reproduction import Reproduction
from rotograd_cli.commands.reproduction.settings import parse
from tests.fake_runs import fake_summary

SPEC = """
name: mini
title: Mini
overrides: [debug=smoke, logger=none]
seeds: 2
compare_with: null
rows:
  vanilla: {label: Vanilla, overrides: [method=vanilla], shown: true}
columns:
  sum: {metric: sum/mse}
"""
PAGE = """# By hand

<!-- begin: commands -->
<!-- end -->

Also by hand.

<!-- begin: mini/table.md -->
what was there before
<!-- end -->
"""


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    return importlib.import_module("results")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the record of some runs into a folder for runs, as its documentation says."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder


def test_a_page_is_made_from_its_runs_and_only_once(
    results: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "mini.yaml").write_text(SPEC)
    command = f"rotograd reproduce table=mini --config-dir {tmp_path}"
    (tmp_path / "pages.yaml").write_text(yaml.safe_dump({"page": [command]}))
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    words = [f"folder={tmp_path}", f"runs={tmp_path / 'runs'}"]

    assert results.main(words) == 0
    out = capsys.readouterr().out
    assert f"page: table mini, 2 runs to train, {UNKNOWN} hours" in out
    assert f"make results pages=page train=1 runs={tmp_path / 'runs'}" in out
    assert page.read_text() == PAGE

    place = f"paths.output_dir={tmp_path / 'runs'}"
    for cell in Reproduction(
        parse("reproduce", ["table=mini", "--config-dir", str(tmp_path), place])
    ).cells:
        summary = fake_summary({"sum/mse": 2.0 + cell.run.seed}, cell.run.seed)
        cell.run_dir.mkdir(parents=True)
        (cell.run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(cell.config)))
        (cell.run_dir / "summary.json").write_text(json.dumps(summary))
    assert results.main(words) == 0
    text = page.read_text()
    assert text.startswith(f"# By hand\n\n<!-- begin: commands -->\n```\n{command}\n```\n<!-- end")
    assert "Also by hand." in text
    assert "| Vanilla | 2.500 ± 0.707 |" in text
    assert "commit 0123456789ab" in text
    assert "what was there before" not in text
    assert (tmp_path / "mini.csv").read_text().count("vanilla,sum") == 2

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert results.main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    # the record of the runs stands for them, and names no folder of this machine
    recorded = (tmp_path / "page_runs.tar.xz").read_bytes()
    shutil.rmtree(tmp_path / "runs")
    unpacked = unpack(tmp_path / "page_runs.tar.xz", tmp_path / "elsewhere")
    assert str(tmp_path) not in "".join(path.read_text() for path in unpacked.rglob("*.*"))
    assert results.main([f"folder={tmp_path}", f"runs={unpacked}"]) == 0
    assert page.read_text() == text
    assert (tmp_path / "page_runs.tar.xz").read_bytes() == recorded


@pytest.mark.slow
def test_the_recorded_runs_make_the_published_table(results: ModuleType, tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "docs" / "results"
    pages = yaml.safe_load((folder / "pages.yaml").read_text())
    for archive in sorted(folder.glob("*_runs.tar.xz")):
        page = folder / f"{archive.name.removesuffix('_runs.tar.xz')}.md"
        runs = unpack(archive, tmp_path / page.stem)
        commands = [shlex.split(line) for line in pages[page.stem]]
        for arguments in results.reproductions(commands, str(runs)):
            reproduction = Reproduction(parse("reproduce", arguments))
            (text,) = results.make_table(reproduction, tmp_path).values()
            assert text in page.read_text()
            name = f"{reproduction.spec.name}.csv"
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_page_that_asks_for_what_is_not_made_is_refused(
    results: ModuleType, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- begin: other/table.md -->\n<!-- end -->\n")
    with pytest.raises(SystemExit, match=r"block 'other/table.md' is not made; choose from a"):
        results.fill(page, {"a": ""})
    (tmp_path / "pages.yaml").write_text("page: []")
    with pytest.raises(SystemExit, match="'speed' is neither an option"):
        results.main([f"folder={tmp_path}", "speed=2"])
