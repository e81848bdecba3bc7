"""Words that messages of data sets share."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from rotograd_cli.data.base import readable
from rotograd_cli.data.rows import data_command
from rotograd_cli.errors import listed


def test_a_size_shows_its_first_digits() -> None:
    for num_bytes, text in [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (17_664, "17.7 kB"),
        (2_489_000_000, "2.49 GB"),
    ]:
        assert readable(num_bytes) == text


def test_a_list_names_the_first_and_counts_the_others() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_a_command_names_the_root_so_that_shell_and_hydra_read_it_as_it_is() -> None:
    for name in ["/data", "da ta", 'a"b', "a'b", "größe", "$HOME", "a=b,c", "[1]"]:
        command = data_command("prepare", "celeba", Path(name), "data.limit=5")
        *first, root = shlex.split(command)
        assert first == ["rotograd", "data", "prepare", "celeba", "data.limit=5"]
        (override,) = OverridesParser.create().parse_overrides([root])
        assert override.key_or_group == "paths.data_dir"
        assert str(override.value()) == name


def test_the_default_root_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROTOGRAD_DATA", raising=False)
    assert data_command("check", "nyuv2", Path("data")) == "rotograd data check nyuv2"
    monkeypatch.setenv("ROTOGRAD_DATA", "/elsewhere")
    assert data_command("check", "", Path("/elsewhere")) == "rotograd data check"
    assert data_command("check", "", Path("data")) == "rotograd data check paths.data_dir=data"
