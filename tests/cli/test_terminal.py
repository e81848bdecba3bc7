"""The user's terminal: few characters, 80 columns, pipes that close, paths as they are typed."""

import io
import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from rotograd_cli.errors import RUN_FAILED
from rotograd_cli.printing.grid import fitting
from rotograd_cli.printing.streams import enduring_output
from rotograd_cli.runs.saved import load_run_config, same_run
from rotograd_cli.runs.summary import MetricDisplay, RunSummary
from rotograd_cli.runs.sweep import sweep_table

from .conftest import CHECKOUT, SMOKE, Cli

NAMES = ("Läufe 1/a=b", "x,y", "[z]", "it's", '"q"', "back\\slash", "1e3", "a  b", "(1)", "#x %")


def test_tables_are_plain_where_the_terminal_has_ascii_alone(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli("train", *SMOKE, "hydra.run.dir=Läufe").code == 0
    assert cli("train", "-m", *SMOKE, "seed=0,1", "hydra.sweep.dir=sweep").code == 0
    assert cli("table", "runs=[Läufe,sweep]").code == 0
    assert cli("evaluate", "run=Läufe").code == 0
    text = written.getvalue().decode("ascii")
    assert "accuracy % ^" in text
    assert "mse v" in text
    assert "Run directory: L?ufe" in text
    first = [line for line in text.partition("Protocol")[0].splitlines() if line[0] in "|+"]
    assert len(first) >= 10
    assert len({len(line) for line in first}) == 1, "columns are not in line"


@pytest.mark.parametrize(
    ("variables", "written"),
    [
        ({"LC_ALL": "C"}, b"2 +- 1 ^"),
        ({"LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}, "2 ± 1 ↑".encode()),
        ({"LC_ALL": "de_DE.UTF-8"}, "2 ± 1 ↑".encode()),
    ],
)
def test_the_c_locale_gets_ascii_though_python_writes_utf_8(
    variables: dict[str, str], written: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONIOENCODING", "PYTHONUTF8"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with enduring_output():
            sys.stdout.write("2 ± 1 ↑")
    assert (tmp_path / "out").read_bytes() == written


def test_wide_tables_are_cut_for_80_columns() -> None:
    specs = {f"task_{k}/accuracy": MetricDisplay("higher", True) for k in range(8)}
    metrics: dict[str, float | None] = {f"test/task_{k}/accuracy": 0.1234 for k in range(8)}
    overrides = ["method=rotograd", "seed=0", "model_optimizer.lr=0.001"]
    summary = RunSummary(
        status="finished", overrides=overrides, metric_specs=specs, metrics=metrics
    )
    cells = [(str(n), replace(summary, seed=n)) for n in range(2)]
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    tables = fitting(sweep_table(cells), console)
    for table in tables:
        console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert sum(line.count("12.34") for line in lines) == 16
    assert sum(line.count("accuracy") for line in lines) == 8, "a head was cut"
    assert sum(line.count("% ↑") for line in lines) == 8, "a head was cut"
    assert len(fitting(sweep_table(cells), Console(file=io.StringIO(), width=400))) == 1


def closed_pipe() -> int:
    """Descriptor of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_help_into_a_closed_pipe_says_nothing() -> None:
    for words in (["train", "--help"], ["--help"], ["--version"]):
        result = subprocess.run(
            [sys.executable, "-m", "rotograd_cli", *words],
            cwd=CHECKOUT,
            stdout=closed_pipe(),
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")


def test_a_run_goes_on_when_nobody_reads_it_any_more(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with os.fdopen(closed_pipe(), "w") as out, os.fdopen(closed_pipe(), "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert cli("train", *SMOKE, "hydra.run.dir=run").code == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


def test_a_full_disk_is_no_closed_pipe(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        result = cli("table", "--help")
    assert result.code == 2
    assert "No space left on device" in result.err


def test_a_run_whose_results_cannot_be_printed_is_finished(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        result = cli("train", *SMOKE, "hydra.run.dir=run")
    assert result.code == RUN_FAILED
    assert "run is finished, but its results cannot be printed (No space left" in result.err
    assert "rotograd evaluate run=" in result.err.splitlines()[-1]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


def test_evaluation_says_that_a_run_is_not_finished(cli: Cli, smoke_run: Path) -> None:
    assert "not finished" not in cli("evaluate", "run=run").out
    path = smoke_run / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "interrupted"}))
    result = cli("evaluate", "run=run")
    assert result.code == 0, result.err
    assert "The run is not finished (stopped): its best epoch may still change." in result.out


@pytest.mark.slow
def test_paths_mean_what_they_mean_to_the_shell(
    cli: Cli, smoke_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = smoke_run.parent
    monkeypatch.setenv("HOME", str(folder))
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        os.rename(smoke_run, folder / name)
        smoke_run = folder / name
        for typed in (name, f"~/{name}", str(folder / name)):
            evaluated = cli("evaluate", f"run={typed}")
            assert evaluated.code == 0, (typed, evaluated.err)
            table = cli("table", f"runs={typed}", f"output={typed}/table")
            assert table.code == 0, (typed, table.err)
            assert (folder / name / "table" / "table.md").is_file()
            resumed = cli("train", f"resume={typed}")
            assert "is finished" in resumed.err, typed
            used = cli("train", *SMOKE, f"hydra.run.dir={typed}")
            assert "holds a run already" in used.err, typed


@pytest.mark.slow
def test_a_new_run_goes_where_it_was_told_to(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "Läufe, [neu]=1/it's"
    result = cli("train", *SMOKE, f"paths.output_dir=~/{name}", "paths.data_dir=a (b), c")
    assert result.code == 0, result.err
    (config,) = (tmp_path / name).rglob("config.yaml")
    assert yaml.safe_load(config.read_text())["paths"]["data_dir"] == "a (b), c"
    sweep = cli("train", "-m", *SMOKE, "seed=0,1", f"hydra.sweep.dir={name} sweep")
    assert sweep.code == 0, sweep.err
    assert len(list((tmp_path / f"{name} sweep").glob("*/config.yaml"))) == 2


def test_a_folder_of_ones_own_may_have_any_name(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "it's Ä=1, x" / "method"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "_target_: rotograd_cli.methods.vanilla.VanillaMTL\n_partial_: true\n"
    )
    for option in (["--config-dir", "it's Ä=1, x"], ["--config-dir=~/it's Ä=1, x"]):
        assert cli("train", *SMOKE, *option, "method=mine", "--cfg", "job").code == 0
        assert "mine" in cli("train", *option, "--help").out
        unknown = cli("train", *SMOKE, *option, "method=mine", "method.foo=3")
        assert "`method.foo` is not a key" in unknown.err
    for words in (["train", "--help"], ["train"], ["data", "check"], ["reproduce"], ["evaluate"]):
        result = cli(*words, "--config-dir", "nowhere")
        assert result.code == 2
        assert "--config-dir must name an existing folder of YAML files, got 'now" in result.err


@pytest.mark.slow
def test_a_suggested_command_works_when_it_is_pasted(cli: Cli, smoke_run: Path) -> None:
    other = smoke_run.parent / "Läufe 1 & 2"
    smoke_run.rename(other)
    config = load_run_config(other)
    config.seed = 9
    with pytest.raises(ValueError, match="holds a run of another configuration") as caught:
        same_run(config, other, [])
    command = str(caught.value).partition("or ")[2].removesuffix(" goes on with that one.")
    program, *words = shlex.split(command)
    assert program == "rotograd"
    assert "is finished" in cli(*words).err


def test_a_group_that_is_null_by_default_takes_null(cli: Cli) -> None:
    plain = cli("train", "--cfg", "job").out
    for words in (["debug=null"], ["~debug"], ["debug=smoke", "debug=null"], ["experiment=null"]):
        result = cli("train", *words, "--cfg", "job")
        assert (result.code, result.out) == (0, plain), words
    for word in ("logger=null", "~logger"):
        result = cli("train", *SMOKE, word)
        assert result.code == 2
        assert "add logger=VALUE (csv, none, tensorboard, wandb)" in result.err


@pytest.mark.slow
def test_what_a_message_adds_can_be_added(cli: Cli) -> None:
    for word in ("train.num_workers=4", "paths.foo=x", "foo=3"):
        result = cli("train", *SMOKE, word)
        assert result.code == 2
        assert f"+{word.partition('=')[0]}=" not in result.err, word
    result = cli("train", *SMOKE, "model_optimizer.foreach=false")
    assert "+model_optimizer.foreach=VALUE where its class has that option" in result.err
    assert cli("train", *SMOKE, "+model_optimizer.foreach=false").code == 0


def test_wandbs_variables_count_where_the_command_line_says_nothing(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def composed(*words: str) -> dict[str, str]:
        result = cli("train", *words, "--cfg", "job", "--resolve")
        assert result.code == 0, result.err
        logger: dict[str, str] = yaml.safe_load(result.out)["logger"]
        return {key: logger[key] for key in ("mode", "project", "entity", "group")}

    keys = ("MODE", "PROJECT", "ENTITY", "RUN_GROUP")
    for key in keys:
        monkeypatch.delenv(f"WANDB_{key}", raising=False)
    assert list(composed().values()) == ["offline", "rotograd", None, None]
    for key in keys:
        monkeypatch.setenv(f"WANDB_{key}", "online" if key == "MODE" else key.lower())
    assert list(composed().values()) == ["online", "project", "entity", "run_group"]
    own = ("logger.mode=disabled", "logger.project=p", "logger.entity=null", "logger.group=g")
    assert list(composed(*own).values()) == ["disabled", "p", None, "g"]
