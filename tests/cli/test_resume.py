"""`resume=`: a run that was killed, stopped or preempted ends as if nothing had happened."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rotograd_cli.errors import RUN_FAILED
from rotograd_cli.runs.description import resumed
from rotograd_cli.runs.summary import RunSummary
from tests.cli.conftest import environment
from tests.forked import Forked
from tests.marks import slow_unless
from tests.records import records
from tests.waiting import PATIENCE_S, wait_for

from .conftest import CHECKOUT, Cli, start

# long enough to be killed anywhere: in a step, an evaluation, a checkpoint; saved after every step
SHORT = (
    "logger=none",
    "device=cpu",
    "data.partners=1",
    "backbone.num_features=16",
    "train.epochs=4",
    "train.limit_batches=6",
    "train.batch_size=8",
    "train.limit_eval_batches=1",
    "train.eval_batch_size=20",
    "train.log_every_steps=2",
    "checkpoints.every_minutes=1e-9",
)
LONGER = (*SHORT, "train.epochs=40")  # still going on when something is done to it
METHODS = ("vanilla", "rotateonly", "rotograd", "rotogradnorm")
OF_THE_PROCESS = (
    *("started", "command", "overrides", "resumed_at_steps", "commit"),
    *("collectives_per_step", "collective_bytes_per_step"),
)


def same(a: Any, b: Any) -> bool:
    """Bit for bit, NaN equal to itself."""
    if isinstance(a, torch.Tensor):
        return torch.equal(
            a.view(torch.uint8) if a.ndim else a, b.view(torch.uint8) if b.ndim else b
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return repr(a) == repr(b)


def assert_same_run(run: Path, wanted: Path) -> None:
    """Weights, state of optimisers and method, records and summary, but for wall times."""
    assert records(run) == records(wanted)
    for name in ("best.pt", "last.pt"):
        found, other = (
            torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (run, wanted)
        )
        for content in (found, other):
            content.pop("records")  # bytes, of times too
            for key in ("train_s", "data_s", "wall_s"):
                content["state"].pop(key)
        assert found.keys() == other.keys()
        for key in found:
            assert same(found[key], other[key]), f"{name}: {key}"
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run, wanted)]
    first, second = (
        {k: v for k, v in s.items() if k not in OF_THE_PROCESS and not k.endswith("_s")}
        for s in summaries
    )
    assert first == second


def train(*words: str, cwd: Path) -> Forked:
    """The command with one thread: another number of them means another rounding."""
    return Forked(("train", *words), cwd, {"OMP_NUM_THREADS": "1"})


def whole(*words: str, cwd: Path) -> None:
    """Trains a run in one go."""
    process = train(*words, cwd=cwd)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err


@pytest.fixture(scope="session")
def longer_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of ``LONGER`` that nothing happened to."""
    folder = tmp_path_factory.mktemp("longer")
    whole(*LONGER, "hydra.run.dir=wanted", cwd=folder)
    return folder / "wanted"


def finish(run: Path, cwd: Path) -> str:
    """Resumes until the end; what it said."""
    process = train(f"resume={run}", cwd=cwd)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out + err


def begin(*words: str, cwd: Path, run: str = "run") -> Forked:
    """Starts the command and waits until it trains (or goes on training)."""
    log = cwd / run / "train.log"
    size = log.stat().st_size if log.exists() else 0
    process = train(*words, cwd=cwd)
    wait_for(
        lambda: process.poll() is not None or (log.exists() and log.stat().st_size > size), process
    )
    return process


def wait_until_it_has_saved(folder: Path, process: Forked) -> None:
    """Waits for two checkpoints, the last one and the one before."""
    wait_for(
        lambda: (folder / "last.pt").exists() and (folder / "last.previous.pt").exists(), process
    )


def kill_after(delay: float, *words: str, cwd: Path) -> None:
    """Kills a run that long after its training began."""
    process = begin(*words, cwd=cwd)
    time.sleep(delay)
    process.kill()
    process.communicate()


def killed_and_resumed(tmp_path: Path, method: str, num_kills: int, seed: int, *more: str) -> None:
    words = (*SHORT, f"method={method}", *more)
    process = begin(*words, "hydra.run.dir=wanted", cwd=tmp_path, run="wanted")
    begun = time.monotonic()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    length, draw = time.monotonic() - begun, random.Random(seed)
    kill_after(draw.uniform(0, length), *words, "hydra.run.dir=run", cwd=tmp_path)
    for _ in range(num_kills - 1):
        kill_after(draw.uniform(0, length / 2), "resume=run", cwd=tmp_path)
    finish(Path("run"), tmp_path)
    assert_same_run(tmp_path / "run", tmp_path / "wanted")
    assert not (tmp_path / "outputs").exists()  # Hydra's folders for new runs


@pytest.mark.parametrize("method", slow_unless(["rotograd"], METHODS))
def test_a_killed_run_ends_as_if_nothing_had_happened(tmp_path: Path, method: str) -> None:
    killed_and_resumed(tmp_path, method, num_kills=2, seed=METHODS.index(method))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_killed_run_in_16_bits_too(tmp_path: Path, precision: str) -> None:
    killed_and_resumed(tmp_path, "rotogradnorm", 1, 9, f"precision={precision}")


@pytest.mark.slow
def test_a_killed_run_whose_method_looks_at_evaluations_too(tmp_path: Path) -> None:
    of_tasks = "left:{accuracy:0.9},right:{accuracy:0.9},sum:{mse:4},parity:{f1:0.8}"
    baselines = f"method.baselines={{{of_tasks},pixels:{{mse:0.15}}}}"
    killed_and_resumed(tmp_path, "pivrg", 2, 11, baselines)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_many_times_ends_as_if_nothing_had_happened(
    tmp_path: Path, method: str, seed: int
) -> None:
    killed_and_resumed(tmp_path, method, num_kills=6, seed=100 + seed)


@pytest.mark.parametrize(
    "sent",
    slow_unless([signal.SIGTERM], [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT]),
)
def test_a_stopped_run_saves_where_it_is_and_says_how_to_go_on(
    tmp_path: Path, sent: signal.Signals
) -> None:
    words = (*SHORT[:-1], "train.limit_batches=40", "train.epochs=10")
    whole(*words, "hydra.run.dir=wanted", cwd=tmp_path)
    process = begin(*words, "hydra.run.dir=run", cwd=tmp_path)
    # it holds signals back by then
    wait_for((tmp_path / "run" / "metrics.jsonl").exists, process)
    process.send_signal(sent)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + sent, err
    assert "continue with: rotograd train resume=run" in err
    assert "Traceback" not in err
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["state"]
    assert f"Stopped after step {state['step']};" in err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    assert f"on from step {state['step']}" in finish(Path("run"), tmp_path)
    assert_same_run(tmp_path / "run", tmp_path / "wanted")


LAUNCHER = """
import signal, sys
from pathlib import Path
from rotograd_cli.cli import main

def requeue(signum, frame):
    print("requeued with", Path("run/checkpoints/last.pt").exists(), flush=True)
    sys.exit(7)

signal.signal(signal.SIGUSR2, requeue)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_launchers_handler_is_called_once_the_run_is_saved(tmp_path: Path) -> None:
    words = (*SHORT[:-1], "train.limit_batches=40", "train.epochs=100", "hydra.run.dir=run")
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, "train", *words],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for((tmp_path / "run" / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGUSR2)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 7, err
    assert out.strip() == "requeued with True"
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["state"]
    assert f"Stopped after step {state['step']};" in err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_a_preempted_job_of_submitit_goes_back_into_its_queue_and_on(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    words = (*SHORT[:-1], "train.limit_batches=40", "train.epochs=40", "seed=0", "-m")
    whole(*words, "hydra.sweep.dir=wanted", cwd=tmp_path)
    local = ("hydra/launcher=submitit_local", "resume=auto", "hydra.sweep.dir=sweep")
    process = start("train", *words, *local, cwd=tmp_path, OMP_NUM_THREADS="1")
    run = tmp_path / "sweep" / "0"
    wait_for((run / "checkpoints" / "last.pt").exists, process)
    worker = int((run / ".lock").read_text().split()[1])
    os.kill(worker, signal.SIGUSR2)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, out + err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert len(summary["resumed_at_steps"]) == 1
    assert_same_run(run, tmp_path / "wanted" / "0")


def test_another_number_of_threads_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    before = RunSummary(num_threads=99, started="then", resumed_at_steps=[3])
    summary = resumed(RunSummary(num_threads=1, started="now"), before, 7)
    assert summary == RunSummary(num_threads=1, started="then", resumed_at_steps=[3, 7])
    assert "99 threads before, 1 now" in caplog.text


def test_auto_goes_on_with_the_run_of_this_configuration(cli: Cli, tmp_path: Path) -> None:
    words = (*SHORT, "resume=auto")
    first = cli("train", *words)
    assert first.code == 0, first.err
    (run,) = (tmp_path / "outputs" / "multidigits" / "rotograd").iterdir()
    again = cli("train", *words)
    assert "is finished" in again.err
    assert again.out.splitlines()[-1] == first.out.splitlines()[-1]
    assert cli("train", *words, "seed=1").code == 0  # another run
    runs = sorted((tmp_path / "outputs" / "multidigits" / "rotograd").iterdir())
    assert len(runs) == 2
    assert runs[0] == run


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, longer_run: Path
) -> None:
    folder = tmp_path / "run" / "checkpoints"
    process = begin(*LONGER, "hydra.run.dir=run", cwd=tmp_path)
    wait_until_it_has_saved(folder, process)
    process.kill()
    process.communicate()
    content = bytearray((folder / "last.pt").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "last.pt").write_bytes(content)
    assert "Going back to last.previous.pt" in finish(Path("run"), tmp_path)
    assert_same_run(tmp_path / "run", longer_run)


WRONG = (
    ("resume=nowhere", "must be a run directory"),
    ("resume=run train.batch_size=32", "as it was configured, got train.batch_size=32 too"),
    ("resume=run method=vanilla", "got method=vanilla too"),
    ("-m resume=run seed=0,1", "must be auto"),
    ("resume=auto hydra.run.dir=run seed=3", "another configuration"),
    ("hydra.run.dir=run", "holds a run already"),
    ("checkpoints.every_minutes=0", "must be more than 0"),
    ("checkpoints.keep_epochs=-1", "must be at least 0"),
    ("checkpoints.every_epochs=0", "must be at least 1"),
)


def test_wrong_input_is_one_line(cli: Cli) -> None:
    assert cli("train", *SHORT, "train.epochs=1", "hydra.run.dir=run").code == 0
    for arguments, message in WRONG:
        result = cli("train", *arguments.split())
        assert result.code == 2, arguments
        assert message in result.err
        assert "Traceback" not in result.err


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_line_with_its_last_checkpoint_intact(
    tmp_path: Path, longer_run: Path
) -> None:
    folder = tmp_path / "run" / "checkpoints"
    process = begin(*LONGER, "hydra.run.dir=run", cwd=tmp_path)
    wait_for((folder / "last.pt").exists, process)
    size = (folder / "last.pt").stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size // 2, size // 2))
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == RUN_FAILED, err
    assert "Traceback" not in err
    assert "cannot be written" in err.splitlines()[-1]
    assert f"resume={tmp_path / 'run'}." in err.splitlines()[-1]
    assert not list(folder.glob("*.tmp"))
    finish(Path("run"), tmp_path)
    assert_same_run(tmp_path / "run", longer_run)


def test_two_processes_cannot_train_in_one_directory(cli: Cli, tmp_path: Path) -> None:
    long = [word for word in SHORT if not word.startswith("train.epochs")]
    process = begin(*long, "train.epochs=10000", "hydra.run.dir=run", cwd=tmp_path)
    result = cli("train", "resume=run")
    assert result.code == 2
    assert f"process {process.pid} on" in result.err
    assert len(result.err.strip().splitlines()) == 1
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM, err


def test_the_newest_epochs_are_kept(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *SHORT, "hydra.run.dir=run", "checkpoints.keep_epochs=2").code == 0
    bases, *kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert bases.startswith("bases.")
    assert kept == ["best.pt", "epoch_00003.pt", "epoch_00004.pt", "last.pt"]


@pytest.mark.slow
def test_epochs_without_a_checkpoint_can_lie_between_two(cli: Cli, tmp_path: Path) -> None:
    options = ("checkpoints.every_epochs=3", "checkpoints.keep_epochs=9")
    words = (*SHORT, *options, "train.eval_every_epochs=3", "hydra.run.dir=run")
    assert cli("train", *words).code == 0
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("epoch_*"))
    assert kept == ["epoch_00003.pt", "epoch_00004.pt"]  # of four
