"""The pages for newcomers run from top to bottom as printed, with tiny settings."""

import math
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.rule import Losses
from tests.waiting import PATIENCE_S

from .conftest import CHECKOUT, Cli

PAGES = sorted(
    f"docs/{path.relative_to(CHECKOUT / 'docs').as_posix()}"
    for path in (
        *(CHECKOUT / "docs").glob("tutorials/*.md"),
        *(CHECKOUT / "docs" / name for name in ("start.md", "explanation.md", "faq.md")),
    )
)
FENCE = re.compile(
    r"(?:`(?P<name>[\w./]+)`:\n\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
OWN_METHOD = "docs/tutorials/own_method.md"
# one run of a few steps, whatever the page says
TINY = (
    *("device=cpu", "logger=none", "train.epochs=1", "train.limit_batches=5"),
    *("train.limit_eval_batches=1", "train.eval_batch_size=100", "train.eval_every_epochs=1"),
)


class Block(NamedTuple):
    """A fenced block of a page."""

    name: str | None  # of the file that it is, if the line above says so
    language: str
    body: str


def blocks_of(page: str) -> list[Block]:
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    return [
        Block(match["name"], match["language"], textwrap.dedent(match["body"]))
        for match in FENCE.finditer(text)
    ]


def write_files(page: str, folder: Path) -> None:
    for block in blocks_of(page):
        if block.name is not None:
            file = folder / block.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.body)


def lines_of(page: str) -> Iterator[tuple[str, int]]:
    """Commands with their exit codes, 0 unless a comment says ``exit code N``."""
    for block in blocks_of(page):
        commands = block.body.replace("\\\n", " ")
        for line in commands.splitlines() if block.language == "bash" else ():
            command, _, comment = line.partition("  # ")
            code = re.search(r"exit code (\d+)", comment)
            yield command, int(code[1]) if code else 0


def run_elsewhere(words: list[str], folder: Path) -> None:
    path = os.pathsep.join((str(folder), str(CHECKOUT)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    module = ["-m", "torch.distributed.run"] if words[0] == "torchrun" else []
    options = TINY if words[0] == "torchrun" else ()
    command = [sys.executable, *module, *words[1:], *options]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=PATIENCE_S)


def options_for(words: list[str]) -> tuple[str, ...]:
    """Tiny settings for what trains, but for a run that goes on as it was configured."""
    goes_on = any(re.match("resume=(?!auto)", word) for word in words)
    of_table = any(word.startswith("table=") for word in words)
    if of_table and words[1] in ("reproduce", "plot"):
        grid = ("table.grid.widen=false", "+table.grid.values={model_optimizer.lr:[2e-3,5e-3]}")
        return (*TINY, *grid, "seeds=1")
    if words[1] != "train" or goes_on:
        return ()
    return (*TINY, "seed=0") if any(word.startswith("seed=") for word in words) else TINY


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs_from_top_to_bottom(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write_files(page, tmp_path)
    for line, code in lines_of(page):
        words = shlex.split(line)
        if words[0] in ("python", "torchrun"):
            run_elsewhere(words, tmp_path)
            continue
        assert words[0] == "rotograd", line
        result = cli(*words[1:], *options_for(words))
        assert result.code == code, (line, result.err)
    for block in blocks_of(page):
        if block.language == "python" and block.name is None:
            exec(block.body, {"__name__": page})


@pytest.fixture
def method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the files of the tutorial on methods."""
    write_files(OWN_METHOD, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_method_of_the_tutorial_is_that_of_its_paper(method: Path) -> None:
    names: dict[str, Any] = {}
    exec((method / "test_config.py").read_text(), names)
    claims = [name for name in names if name.startswith("test_")]
    assert len(claims) == 3
    for name in claims:
        names[name]()


def test_the_factors_of_the_tutorial_are_shares_of_the_usable_losses(method: Path) -> None:
    names: dict[str, Any] = {}
    exec((method / "easyfirst.py").read_text(), names)
    values = torch.tensor([1.0, 0.0, math.nan, 0.0, 3.0, math.inf], dtype=torch.float64)
    present = torch.tensor([True, False, True, True, True, True])
    small, large = math.exp(-1), math.exp(-3)
    expected = [2 * small / (small + large), 0, 0, 0, 2 * large / (small + large), 0]
    rule = names["EasyFirst"]()
    assert rule.factors(Losses(values, present)).tolist() == pytest.approx(expected)
    assert not rule.factors(Losses(0 * present, ~present)).any()


def test_the_method_with_an_option_combines_the_rows_of_a_matrix() -> None:
    (block,) = [b for b in blocks_of(OWN_METHOD) if "class EqualNorm" in b.body]
    names: dict[str, Any] = {}
    exec(block.body, names)
    EqualNorm = names["EqualNorm"]
    G = torch.tensor([[2.0, 0.0], [0.0, 0.5], [0.0, 0.0]])
    mean = 1.25  # of the two that take part
    assert torch.equal(EqualNorm(strength=1)(G), torch.tensor([mean, mean]))
    assert torch.equal(EqualNorm(strength=0)(G), G.sum(0))
    with pytest.raises(ConfigError, match="`strength` must be at most 1, got 2"):
        EqualNorm(strength=2)


@pytest.mark.slow
def test_the_method_of_the_tutorial_passes_every_contract_in_its_own_folder(method: Path) -> None:
    """Kinds of gradients, a NaN in one task, tasks without a gradient."""
    path = os.pathsep.join((str(method), str(CHECKOUT)))
    own = {"ROTOGRAD_TEST_CONFIG_DIR": str(method / "conf")}
    files = [f"tests/contract/{name}" for name in ("test_methods.py", "test_starvation.py")]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "",
            *files,
            "-k",
            "config",
            "-p",
            "no:cacheprovider",
        ],
        cwd=CHECKOUT,
        env={**os.environ, **own, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_and_lines_are_short(page: str) -> None:
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", FENCE.sub("", text)):
        assert ((CHECKOUT / page).parent / target).exists(), target
    too_long = [line for line in text.splitlines() if len(line) > 119]
    assert too_long == []
