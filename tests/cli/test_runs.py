"""``rotograd runs``: patterns as a shell expands them, defaults, refusals."""

from pathlib import Path

import pytest

from .conftest import Cli


def test_runs_are_listed_by_default_by_pattern_and_as_a_shell_expands_it(
    cli: Cli, smoke_run: Path
) -> None:
    folder = Path("outputs/a=b/[1]")
    folder.parent.mkdir(parents=True)
    smoke_run.rename(folder)
    for words in (
        (),
        ("outputs",),
        ("outputs/*",),
        ("outputs/a=b", "outputs/a=b/[1]"),
        ("sort=name",),
        ("--config-dir", ".", "outputs/*"),
        ("outputs/*", "--config-dir=."),
    ):
        result = cli("runs", *words)
        assert (result.code, result.err) == (0, "")
        head, line = result.out.splitlines()
        assert head.split()[:3] == ["status", "epoch", "val/geomean_loss"]
        assert line.startswith("finished  1/1 ")
        assert line.endswith("outputs/a=b/[1]")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a folder: rotograd runs DIR"),
        (("nowhere",), "got 'nowhere' with no run"),
        (("sort=size",), "`sort` must be age or metric or"),
        (("srt=age",), "did you mean sort?"),
    ],
)
def test_wrong_input_is_refused_in_one_line(cli: Cli, words: tuple[str, ...], message: str) -> None:
    result = cli("runs", *words)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert result.out == ""
