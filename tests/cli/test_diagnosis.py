"""`rotograd train resume=RUN debug=nonfinite`: where a step that is not finite began."""

import hashlib
import re
from pathlib import Path

import pytest

from rotograd_cli.errors import RUN_FAILED

from .conftest import Cli

# eight steps per epoch; the learning rate explodes in the third epoch
WORDS = (
    "logger=none",
    "device=cpu",
    "data=synthetic",
    "data.kind=regression",
    "data.num_outputs=1",
    "data.input_shape=[6]",
    "data.num_train=64",
    "data.num_val=8",
    "data.num_test=8",
    "backbone=mlp",
    "backbone.hidden=[7]",
    "backbone.num_features=5",
    "train.batch_size=8",
    "train.epochs=5",
    "train.log_every_steps=3",
    "optimizer@model_optimizer=sgd",
    "scheduler@model_scheduler=exponential",
    "model_scheduler.interval=epoch",
    "model_scheduler.scheduler.gamma=1e4",
    "model_optimizer.lr=1e-5",
    "hydra.run.dir=run",
)
FIRST_EPOCH = ("model_optimizer.lr=1e5",)
COMMAND = "rotograd train resume=run debug=nonfinite"


def fail(cli: Cli, *words: str) -> str:
    """The line that a run ends with."""
    result = cli("train", *WORDS, *words)
    assert result.code == RUN_FAILED
    line = result.err.strip().splitlines()[-1]
    assert line.endswith(f"{COMMAND} shows where it began.")
    return line


def content(folder: Path) -> dict[Path, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("rotograd", ("train.accumulate_steps=2",)),
        pytest.param("nashmtl", FIRST_EPOCH, marks=pytest.mark.slow),
        pytest.param("vanilla", ("precision=fp16", *FIRST_EPOCH), marks=pytest.mark.slow),
        pytest.param(
            "famo", ("train.on_nonfinite=skip", "train.max_skipped_steps=0"), marks=pytest.mark.slow
        ),
    ],
)
def test_the_step_that_ended_the_run_is_found_and_its_folder_left_alone(
    cli: Cli, tmp_path: Path, method: str, words: tuple[str, ...]
) -> None:
    """Oracle: step and reason in the line of the run, which took its steps without hooks."""
    line = fail(cli, f"method={method}", *words)
    match = re.search(r"rotograd: (.*) in step (\d+)", line)
    assert match is not None
    before = content(tmp_path)
    result = cli("train", "resume=run", "debug=nonfinite")
    assert result.code == 0
    assert result.out.startswith(f"{match[1]} in step {match[2]}. ")
    assert (int(match[2]) <= 8) == (words[-1:] == FIRST_EPOCH)
    assert content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_does_not_fail_again_says_so(cli: Cli, tmp_path: Path) -> None:
    fail(cli, "method=vanilla")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("grad_clip_norm: null", "grad_clip_norm: 1.0e-4"))
    result = cli("train", "resume=run", "debug=nonfinite")
    assert result.code == 0
    assert re.fullmatch(
        r"Steps 17 to \d+ of run are finite this time\. A failure that does not come back depends "
        r"on state outside of the checkpoint \(in a loss or a data set, say\), or on a GPU without "
        r"deterministic=true\.\n",
        result.out,
    )


def test_a_finished_run_has_no_step_to_take_again(cli: Cli) -> None:
    assert cli("train", *WORDS, "method=vanilla", "train.epochs=1").code == 0
    result = cli("train", "resume=run", "debug=nonfinite")
    assert result.code == 0
    assert result.out == "run has finished its 8 steps: there is none to take again.\n"


def test_it_takes_one_run_to_go_back_to(cli: Cli, tmp_path: Path) -> None:
    fail(cli, "method=vanilla", *FIRST_EPOCH)
    for words, message in (
        ((), "goes back to one run in one process; name it with resume=RUN"),
        (("resume=auto",), "name it with resume=RUN"),
        (("-m", "resume=run", "seed=0,1"), "must be auto in a sweep"),
        (("resume=nowhere",), "must be a run directory, got nowhere"),
        (("resume=run", "seed=1"), "goes on with run as it was configured, got seed=1 too"),
    ):
        result = cli("train", *words, "debug=nonfinite")
        assert result.code == 2, words
        assert message in result.err
        assert len(result.err.strip().splitlines()) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["run"]
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    result = cli("train", "resume=run", "debug=nonfinite")
    assert result.code == 2
    assert "There is no checkpoint in run/checkpoints to go back to." in result.err
