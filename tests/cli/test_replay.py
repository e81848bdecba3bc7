"""`rotograd replay`: a step that was not finite, taken again from its dump in another process."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rotograd_cli.commands.replay import parse, replay
from rotograd_cli.errors import RUN_FAILED, CheckpointError, RotogradError
from rotograd_cli.training.checkpoint import load_checkpoint, save_checkpoint
from tests.forked import Forked
from tests.waiting import PATIENCE_S

from .conftest import CHECKOUT, Cli, start
from .test_resume import same

METHODS = ("vanilla", "rotateonly", "rotograd", "rotogradnorm", "famo", "nashmtl")
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
ACCUMULATE = ("train.accumulate_steps=2",)
DUMP = Path("run") / "checkpoints" / "nonfinite.pt"


def process(*words: str, cwd: Path, code: int) -> tuple[str, str]:
    """Output and errors of the command in a process of its own, with one thread."""
    child = Forked(words, cwd, {"OMP_NUM_THREADS": "1"})
    out, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == code, out + err
    assert "Traceback" not in err
    return out, err


def fail(*words: str, cwd: Path) -> str:
    """Trains a run that stops at a step that is not finite; the line that it ends with."""
    _, err = process("train", *WORDS, *words, cwd=cwd, code=RUN_FAILED)
    line = err.strip().splitlines()[-1]
    assert f"rotograd replay {DUMP} shows where it began" in line
    return line


def failure(cwd: Path) -> dict[str, Any]:
    result: dict[str, Any] = load_checkpoint(cwd / DUMP)["failure"]
    return result


CASES = [("rotograd", ACCUMULATE), ("nashmtl", FIRST_EPOCH)]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        pytest.param(m, words, marks=[] if (m, words) in CASES else pytest.mark.slow)
        for m in METHODS
        for words in (FIRST_EPOCH, (), ACCUMULATE)
    ],
)
def test_another_process_meets_the_same_numbers(
    tmp_path: Path, method: str, words: tuple[str, ...]
) -> None:
    line = fail(f"method={method}", *words, cwd=tmp_path)
    found = failure(tmp_path)
    step = found["step"]
    assert f"{found['message']} in step {step};" in line
    assert (step <= 8) == (words == FIRST_EPOCH)
    assert load_checkpoint(tmp_path / DUMP)["state"]["step"] == step - 1
    sizes = [len(batch["inputs"]) for batch in found["micro_batches"]]
    assert sizes == ([4, 4] if words == ACCUMULATE else [8])
    out, _ = process("replay", str(DUMP), cwd=tmp_path, code=0)
    assert out.splitlines()[-1] == f"Reproduced bit for bit: {found['message']} in step {step}."
    assert f"step {step}: " in out
    for name, loss in found["losses"].items():
        (row,) = [x for x in out.splitlines() if f" {name} " in x and "│" in x]
        assert [cell.strip() for cell in row.split("│")[2:4]] == [f"{loss:.6g}"] * 2


def test_the_dump_holds_what_the_run_was_before_the_step(tmp_path: Path) -> None:
    """Checkpoints after every step are the oracle: the last one is the state before the failure."""
    fail("method=rotograd", cwd=tmp_path)
    often = tmp_path / "often"
    often.mkdir()
    fail("method=rotograd", "checkpoints.every_minutes=1e-9", cwd=often)
    dump, last = (
        load_checkpoint(tmp_path / DUMP),
        load_checkpoint(often / "run/checkpoints/last.pt"),
    )
    assert last["state"]["step"] == dump["state"]["step"] > 16
    for key in ("model", "optimizers", "schedulers", "rng", "window"):
        assert same(dump[key], last[key]), key
    assert same(failure(tmp_path), failure(often))


def test_the_losses_are_those_of_the_dumped_batch_under_the_dumped_weights(tmp_path: Path) -> None:
    """Oracle: the network written out, in float64."""
    fail("method=vanilla", cwd=tmp_path)
    content = load_checkpoint(tmp_path / DUMP)
    p = {name: value.double() for name, value in content["model"].items()}
    (batch,) = content["failure"]["micro_batches"]
    names = [n.removesuffix(".weight") for n in p if n.endswith(".weight")]
    bodies = [n for n in names if n.startswith("backbone.")]
    z = batch["inputs"].double()
    for name in bodies[:-1]:
        z = (z @ p[f"{name}.weight"].T + p[f"{name}.bias"]).relu()
    z = z @ p[f"{bodies[-1]}.weight"].T + p[f"{bodies[-1]}.bias"]
    for k, (task, loss) in enumerate(content["failure"]["losses"].items()):
        y, heads = z, [n for n in names if n.startswith(f"heads.{k}.")]
        for index, name in enumerate(heads):
            y = (y if index == 0 else y.relu()) @ p[f"{name}.weight"].T + p[f"{name}.bias"]
        wanted = (y[:, 0] - batch["targets"][task].double()).square().mean()
        if loss < 1e38:
            assert loss == pytest.approx(float(wanted), rel=1e-4)
        else:
            assert wanted > 3e38  # beyond float32


def test_a_resumed_run_leaves_the_same_dump(tmp_path: Path) -> None:
    first = fail("method=rotograd", cwd=tmp_path)
    found, content = failure(tmp_path), load_checkpoint(tmp_path / DUMP)
    (tmp_path / DUMP).unlink()
    _, err = process("train", "resume=run", cwd=tmp_path, code=RUN_FAILED)
    assert err.strip().splitlines()[-1] == first
    again = load_checkpoint(tmp_path / DUMP)
    assert same(again["failure"], found)
    assert same(again["model"], content["model"])
    process("replay", str(DUMP), cwd=tmp_path, code=0)


def test_the_end_of_skipping_is_dumped_too(tmp_path: Path) -> None:
    words = ("train.on_nonfinite=skip", "train.max_skipped_steps=3", *FIRST_EPOCH)
    line = fail("method=rotograd", *words, cwd=tmp_path)
    assert "after 3 skipped steps" in line
    _, err = process("train", "resume=run", cwd=tmp_path, code=RUN_FAILED)
    assert err.count("which is skipped") == 3  # not again while the dump is made
    out, _ = process("replay", str(DUMP), cwd=tmp_path, code=0)
    assert out.splitlines()[-1].startswith("Reproduced bit for bit")


@pytest.mark.slow
def test_running_statistics_and_random_masks_are_part_of_the_dump(tmp_path: Path) -> None:
    module = tmp_path / "noisy_backbone.py"
    module.write_text(NOISY)
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "noisy.yaml").write_text(
        "_target_: noisy_backbone.Noisy\n_partial_: true\n"
    )
    words = [word for word in WORDS if not word.startswith("backbone")]
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    child = start(
        *("train", *words, "--config-dir", ".", "backbone=noisy", "method=rotograd"),
        cwd=tmp_path,
        **env,
    )
    _, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == RUN_FAILED, err
    child = start("replay", str(DUMP), cwd=tmp_path, **env)
    _, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 2
    assert "got 'noisy_backbone.Noisy'" in err
    for own in (["trust=true"], ["--config-dir", "."]):
        child = start("replay", str(DUMP), *own, cwd=tmp_path, **env)
        out, err = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 0, out + err
        assert "Reproduced bit for bit" in out


NOISY = """
from torch import nn


class Noisy(nn.Sequential):
    def __init__(self, *, input_shape):
        layers = nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.3), nn.Linear(7, 5)
        super().__init__(*layers)
"""


def test_where_it_began_is_named(tmp_path: Path) -> None:
    """Oracle: an infinite weight, which its own layer is the first to show."""
    fail("method=vanilla", *FIRST_EPOCH, cwd=tmp_path)
    content = load_checkpoint(tmp_path / DUMP)
    del content["format"]
    name = next(n for n in content["model"] if n.startswith("heads.1") and n.endswith("bias"))
    for value in content["model"].values():
        if value.is_floating_point():
            value.fill_(0.01)
    content["model"][name].fill_(torch.inf)
    save_checkpoint(tmp_path / "changed.pt", content)
    out, _ = process("replay", "changed.pt", cwd=tmp_path, code=3)
    assert f"Not finite before the step: {name} ([" in out
    assert f"First output that is not finite: {name.removesuffix('.bias')} (Linear)" in out
    assert "First gradient that is not finite: heads.1" in out
    assert out.splitlines()[-1].startswith(
        "Not reproduced: The loss of task 'task_1' became inf here."
    )


def test_a_norm_that_overflows_is_put_down_to_the_largest_gradient(tmp_path: Path) -> None:
    line = fail("method=vanilla", *FIRST_EPOCH, cwd=tmp_path)
    assert "The norm of the gradient overflowed" in line
    gradients = failure(tmp_path)["gradients"]
    name, norm = max(gradients.items(), key=lambda item: item[1])
    assert norm > 1e19  # its square is beyond float32
    out, _ = process("replay", str(DUMP), cwd=tmp_path, code=0)
    assert f"all parameters are finite, the largest that of {name}: {norm:.6g}." in out


def test_a_step_that_is_finite_here_is_not_reproduced(tmp_path: Path) -> None:
    fail("method=rotograd", *FIRST_EPOCH, cwd=tmp_path)
    out, _ = process("replay", str(DUMP), "dtype=float64", cwd=tmp_path, code=3)
    last = out.splitlines()[-1]
    assert last.startswith("Not reproduced: the step is finite here (dtype float64). In the run: ")


def test_the_same_failure_with_another_number_is_not_bit_for_bit(tmp_path: Path) -> None:
    fail("method=rotograd", *FIRST_EPOCH, cwd=tmp_path)
    content = load_checkpoint(tmp_path / DUMP)
    del content["format"]
    name = next(iter(content["failure"]["gradients"]))
    content["failure"]["gradients"][name] = 1.0
    save_checkpoint(tmp_path / "changed.pt", content)
    out, _ = process("replay", "changed.pt", cwd=tmp_path, code=3)
    assert out.splitlines()[-1].startswith("Reproduced, but not bit for bit: ")


# ---- wrong input


def test_wrong_input_is_one_line(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *WORDS, *FIRST_EPOCH).code == RUN_FAILED
    dump = str(DUMP)
    (tmp_path / "text.pt").write_text("no dump")
    shutil.copy(tmp_path / dump, tmp_path / "cut.pt")
    with (tmp_path / "cut.pt").open("r+b") as file:
        file.truncate(1000)
    for words, message in (
        ([], "needs the path of one dump, got none"),
        ([dump, dump], "needs the path of one dump, got 2 paths"),
        (["nowhere.pt"], "there is no file nowhere.pt; check the path"),
        (["run"], f"there is no file run; did you mean {DUMP}?"),
        (["run/checkpoints/last.previous.pt"], "is a checkpoint, not a dump"),
        (["text.pt"], "text.pt cannot be read as a checkpoint"),
        (["cut.pt"], "cut.pt cannot be read as a checkpoint"),
        ([dump, "devcie=cpu"], "`devcie` is not an option of rotograd replay; did you mean device"),
        ([dump, "--device=cpu"], "`--device` is not an option"),
        ([dump, "dtype=float16"], "`dtype` must be float32 or float64, got 'float16'"),
        ([dump, "device=moon"], "`device` must be auto, cpu, cuda or cuda:i, got 'moon'"),
        ([dump, "trust=yes"], "`trust` must be true or false"),
    ):
        result = cli("replay", *words)
        assert result.code == 2, words
        assert message in result.err
        assert len(result.err.strip().splitlines()) == 1
        assert "Traceback" not in result.err


def damaged(tmp_path: Path, change: Any) -> str:
    """What a replay of a changed dump is refused with."""
    content = load_checkpoint(tmp_path / DUMP)
    del content["format"]
    change(content)
    save_checkpoint(tmp_path / "changed.pt", content)
    with pytest.raises(RotogradError) as caught:
        replay(parse([str(tmp_path / "changed.pt")]))
    return str(caught.value)


def test_a_damaged_dump_is_refused(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *WORDS, *FIRST_EPOCH).code == RUN_FAILED

    def set_failure(key: str, value: Any) -> Any:
        return lambda content: content["failure"].update({key: value})

    for change in (
        lambda content: content.update(failure=3),
        lambda content: content["failure"].pop("step"),
        set_failure("step", "3"),
        set_failure("losses", {"task_0": "inf"}),
        set_failure("micro_batches", []),
        set_failure("micro_batches", [{"inputs": 1, "targets": {}}]),
        set_failure("micro_batches", [{"inputs": torch.zeros(8, 5), "targets": {}}]),
        set_failure("num_threads", 0),
    ):
        assert "is a damaged dump" in damaged(tmp_path, change)
    assert "configuration" in damaged(tmp_path, lambda content: content.update(config={"a": 1}))
    assert "no checkpoint of this run" in damaged(tmp_path, lambda content: content.pop("rng"))
    assert "another model" in damaged(tmp_path, lambda content: content["model"].popitem())


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("hacked"),)


def test_a_pickle_that_would_run_code_is_refused(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *WORDS, *FIRST_EPOCH).code == RUN_FAILED
    content = load_checkpoint(tmp_path / DUMP)
    torch.save({**content, "failure": _Hostile()}, tmp_path / "hostile.pt")
    result = cli("replay", "hostile.pt")
    assert result.code == 2
    assert "cannot be read as a checkpoint" in result.err
    assert not (tmp_path / "hacked").exists()


def test_a_dump_that_cannot_be_written_leaves_the_first_message(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: Any) -> None:
        raise CheckpointError("No space.")

    monkeypatch.setattr("rotograd_cli.training.nonfinite.save_checkpoint", full)
    result = cli("train", *WORDS, *FIRST_EPOCH)
    assert result.code == RUN_FAILED
    last = result.err.strip().splitlines()[-1]
    assert re.search(r"in step \d+; lower .* There is no dump of it: No space\.$", last)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert last.endswith(summary["error"])


@pytest.mark.slow
@pytest.mark.parametrize("words", [FIRST_EPOCH, ACCUMULATE])
def test_processes_that_train_together_dump_the_whole_batch(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Oracle: the dump of one process."""
    fail("method=rotograd", *words, cwd=tmp_path)
    alone = failure(tmp_path)
    (tmp_path / "two").mkdir()
    job = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "rotograd_cli", "train", *WORDS, "method=rotograd"),
            *words,
        ],
        cwd=tmp_path / "two",
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert job.returncode != 0
    assert job.stderr.count(f"rotograd replay {DUMP} shows where it began") == 1
    found = failure(tmp_path / "two")
    assert (found["step"], found["num_ranks"]) == (alone["step"], 2)
    for mine, wanted in zip(found["micro_batches"], alone["micro_batches"], strict=True):
        assert same(mine, wanted)
    out, _ = process("replay", str(DUMP), cwd=tmp_path / "two", code=3)
    assert out.splitlines()[-1].startswith("Reproduced, but not bit for bit (one process instead")
