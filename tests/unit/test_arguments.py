"""Words of the command line as Hydra's grammar reads them."""

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from rotograd_cli.config.arguments import ready
from rotograd_cli.errors import ConfigError


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")


def read(word: str, *flags: str) -> Any:
    """What Hydra makes of a word; the values of a sweep as a tuple."""
    override = OverridesParser.create().parse_override(ready([word, *flags])[0])
    if override.is_sweep_override():
        return tuple(getattr(value, "text", value) for value in override.sweep_iterator())
    return override.value()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("runs/a", "runs/a"),
        ("~/runs", "/home/me/runs"),
        ("Läufe 1/a=b, c", "Läufe 1/a=b, c"),
        ("a,b", "a,b"),
        ("it's", "it's"),
        ('say "x"\\', 'say "x"\\'),
        ("[a]", "[a]"),
        ("{a}", "{a}"),
        ("f(x)", "f(x)"),
        ("1e3", "1e3"),
        ("007", "007"),
        ("true", "true"),
        ("'quoted, for Hydra'", "quoted, for Hydra"),
        ("'~/a b'", "/home/me/a b"),
        ("a\\ b", "a b"),  # Hydra's own way to write a blank
        ("${oc.env:HOME}/ä", "${oc.env:HOME}/ä"),
        ("null", None),
        ("", ""),
    ],
)
def test_a_path_is_taken_as_typed(value: str, path: str | None) -> None:
    for key in ("run", "resume", "+output", "paths.data_dir", "hydra.run.dir"):
        assert read(f"{key}={value}") == path


def test_what_exists_is_meant_whatever_hydra_could_read_in_it(tmp_path: Path) -> None:
    for name in ("a,b", "a\\ b", "'q'", "[a]", "choice(1,2)", "data=x y"):
        (tmp_path / name).mkdir()
        assert read(f"paths.data_dir={name}", "-m") == name
        assert read(f"runs={name}") == name
    assert read("data.root=data=x y") == "data=x y"  # of any other key too
    assert read("data.root=~/x") == "/home/me/x"


def test_lists_and_sweeps_of_paths_remain() -> None:
    assert read("paths.data_dir=a,ä b,~/c", "-m") == ("a", "ä b", "/home/me/c")
    assert read("hydra.sweep.dir=a,b", "-m") == "a,b"  # a sweep has one folder
    assert read("runs=[a,ä b]") == ["a", "ä b"]
    assert read("runs=[a,b]") == ["a", "b"]
    assert read("tasks=[left,right]") == ["left", "right"]
    assert read("seed=0,1", "-m") == (0, 1)


def test_options_that_name_a_path_know_the_home(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    words = ["nyuv2", "--from=~/a b.mat", "--from", "~/c", "--config-dir", "own"]
    expected = ["nyuv2", "--from=/home/me/a b.mat", "--from", "/home/me/c", "--config-dir", "own"]
    assert ready(words) == expected
    with pytest.raises(ConfigError, match="must name an existing folder of YAML files, got 'no'"):
        ready(["--config-dir=no"])
