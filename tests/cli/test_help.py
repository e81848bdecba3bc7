"""Help, version and completion: at once, and without the heavy libraries."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from rotograd_cli import __version__, commands

from .conftest import Cli

SCRIPT = Path(sys.executable).with_name("rotograd")
# what a run imports, in seconds rather than milliseconds
HEAVY = {
    *("torch", "torchvision", "torchmetrics", "torchjd", "geotorch", "numpy", "scipy", "sklearn"),
    *("hydra", "omegaconf", "yaml", "pydantic", "rich", "wandb", "PIL", "h5py", "matplotlib"),
}
needs_script = pytest.mark.skipif(not SCRIPT.exists(), reason="the package is not installed")


def imported_by(*words: str) -> set[str]:
    """Top-level modules that the program has imported when it ends."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    names = [line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()]
    return {name.split(".")[0] for name in names}


@needs_script
def test_help_imports_no_library_and_so_comes_at_once() -> None:
    asked = [(), ("--help",), ("--version",), ("train", "--version")]
    for words in (*asked, *((command, "-h") for command in commands.names())):
        found = imported_by(*words)
        assert "rotograd_cli" in found, words
        assert not found & HEAVY, words


@needs_script
def test_a_refused_override_loads_neither_torch_nor_data() -> None:
    for words in (
        ("train", "train.epocs=3"),
        ("train", "seed=abc"),
        ("evaluate", "splt=val"),
        ("runs", "srt=age"),
    ):
        assert not imported_by(*words) & {"torch", "numpy", "sklearn", "wandb"}, words


def test_a_configuration_is_composed_once_unless_the_mode_may_be_set(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = []
    load = ConfigLoaderImpl.load_configuration

    def counting(*args: Any, **options: Any) -> Any:
        composed.append(options)
        return load(*args, **options)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counting)
    (tmp_path / "outputs").mkdir()
    for words, num in (((), 1), (("hydra.mode=RUN",), 2), (("--config-dir", "."), 2)):
        composed.clear()
        assert cli("runs", *words).code in (0, 2)
        assert len(composed) == num


def test_every_module_of_the_package_is_a_command() -> None:
    assert {"train", "evaluate", "report"} <= set(commands.names())
    for name in commands.names():
        module = commands.load(name)
        assert f"usage: rotograd {name} " in commands.usage(name, [])
        assert isinstance(module.GROUPS, tuple)
        assert callable(module.run)


def test_help_names_every_command_and_every_choice(cli: Cli) -> None:
    overview = cli("--help")
    assert overview.code == 0
    for word in (
        "train",
        "evaluate",
        "table",
        "bench",
        "-m",
        "--cfg job",
        "--version",
        "-sc install=bash",
    ):
        assert word in overview.out
    train = cli("train", "--help").out
    for word in ("rotogradnorm", "multimnist", "multidigits", "smoke", "--config-dir"):
        assert word in train
    assert "split=train|val|test" in cli("evaluate", "-h").out
    table = cli("table", "--help").out
    for word in ("runs=GLOB", "multimnist", "nyuv2", "median_std", "output=DIR"):
        assert word in table
    bench = cli("bench", "--help").out
    for word in ("workload", "linear40", "rotogradnorm", "bench.contenders", "bench.rotation_norm"):
        assert word in bench
    assert "workload" not in train


@pytest.mark.parametrize("words", [("--version",), ("train", "--version")])
def test_the_version_is_the_packages(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli(*words).out == f"rotograd-cli {__version__}\n"


@needs_script
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rotograd ", {"train", "evaluate", "reproduce", "table", "bench"}),
        ("rotograd train method=ro", {"method=rotograd", "method=rotateonly"}),
        ("rotograd train train.ep", {"train.epochs="}),
        *(
            pytest.param(line, expected, marks=pytest.mark.slow)
            for line, expected in (
                ("rotograd tr", {"train"}),
                ("rotograd train meth", {"method=", "method."}),
                ("rotograd train seed=1 debug=s", {"debug=smoke"}),
                ("rotograd evaluate spl", {"split="}),
                ("rotograd table ru", {"runs="}),
                ("rotograd runs so", {"sort="}),
                ("rotograd table table=multi", {"table=multimnist"}),
                ("rotograd bench work", {"workload="}),
                ("rotograd bench workload=lin", {"workload=linear40"}),
                ("rotograd bench bench.rou", {"bench.rounds="}),
                ("rotograd train seed=[ met", set()),
            )
        ),
    ],
)
def test_bash_completes(tmp_path: Path, line: str, expected: set[str]) -> None:
    words = line.split(" ")
    script = f"""
eval "$(rotograd -sc install=bash)"
COMP_LINE={line!r}; COMP_POINT={len(line)}; COMP_CWORD={len(words) - 1}
hydra_bash_completion 2> errors
printf '%s\\n' "${{COMPREPLY[@]}}"
complete -p rotograd
complete -p train 2> /dev/null
grep -v 'compgen' errors
true"""
    result = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{SCRIPT.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    *suggestions, registered = result.stdout.split("\n")[:-1]
    assert "-F hydra_bash_completion rotograd" in registered
    assert "train" not in registered  # a program of that name is none of our business
    assert expected <= set(suggestions) | ({""} if not expected else set())
    assert result.stderr == ""
