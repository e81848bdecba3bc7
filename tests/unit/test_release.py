"""What a release says of itself agrees, and what its container copies is there."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from rotograd_cli import __version__
from rotograd_cli.extras import installing

ROOT = Path(__file__).parents[2]


def test_the_version_has_one_home_and_the_citation_and_the_changelog_agree() -> None:
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.findall(r"^## (.*) \((.*)\)$", changelog, re.MULTILINE)[0]
    assert newest == (__version__, citation["date-released"])


def test_an_extra_is_installed_into_the_python_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ``pip`` of the shell may belong to another environment, as in ``.venv/bin/rotograd``."""
    monkeypatch.setattr(sys, "executable", "/my env/bin/python")
    words = shlex.split(installing("plot"))
    assert words == ["/my env/bin/python", "-m", "pip", "install", "rotograd-cli[plot]"]


def test_every_extra_is_in_the_page_on_installation() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for extra in extras["optional-dependencies"]:
        assert f"| `{extra}` |" in page, extra


def test_the_container_is_built_from_files_that_are_there_and_not_ignored() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    ignored, *kept = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored == "*"
    for line in lines:
        if line.startswith("COPY"):
            *sources, _ = line.split()[1:]
            for source in sources:
                assert (ROOT / source).exists()
                assert f"!{source}" in kept
