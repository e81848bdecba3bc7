"""scripts/pictures.py: every picture of the documentation has a command that makes it."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("pictures")


def made(pictures: ModuleType) -> set[Path]:
    images = yaml.safe_load((DOCS / "images" / "pictures.yaml").read_text())
    pages = yaml.safe_load((DOCS / "results" / "pages.yaml").read_text())
    figures = {
        f"{page}_{word.removeprefix('figure=')}.png"
        for page, commands in pages.items()
        for line in commands
        for word in line.split()
        if word.startswith("figure=")
    }
    names = {*pictures.SCHEMES, "run.svg", *(f"{name}.png" for name in images)}
    return {DOCS / "images" / n for n in names} | {DOCS / "results" / n for n in figures}


def test_every_picture_is_made_by_a_command(pictures: ModuleType) -> None:
    files = {path for suffix in ("png", "svg") for path in DOCS.rglob(f"*.{suffix}")}
    assert all(path.stat().st_size <= 300_000 for path in files)
    linked, by_hand = set(), set()
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        # a tutorial draws from the runs that its reader trained, and says how
        by_hand |= {ROOT / name for name in re.findall(r"small_png.py \S+ (docs/\S+\.png)", text)}
        for name in re.findall(r'(?:\]\(|src=")([^)":]+\.(?:png|svg))', text):
            linked.add((page.parent / name).resolve())
    assert linked <= files <= made(pictures) | by_hand


def test_a_recording_shows_what_was_written_and_needs_no_network(
    pictures: ModuleType, tmp_path: Path
) -> None:
    lines = ["begin [bold]", *(f"epoch {n}/6 of six" for n in range(1, 7)), "end"]
    target = tmp_path / "run.svg"
    pictures.record(["printf", "%s\\n", *lines], target)
    svg = target.read_text()
    texts = [t.replace("&#160;", " ") for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    epochs = ["epoch 1/6 of six", "epoch 2/6 of six", "...", "epoch 6/6 of six"]
    shown = ["$ make run", "begin [bold]", *epochs, "end"]
    assert [text for text in texts if text in shown] == shown
    assert not any("3/6" in text for text in texts)
    assert "url(" not in svg.replace("url(#", "")


@pytest.mark.parametrize("word", ["conflict", "runz=x"])
def test_an_unknown_word_is_refused(pictures: ModuleType, word: str) -> None:
    name = word.partition("=")[0]
    with pytest.raises(SystemExit, match=f"'{name}' is no option .* and no picture: multimnist, "):
        pictures.main([word])
