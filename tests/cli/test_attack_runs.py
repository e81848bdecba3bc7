"""What may happen to a run from outside: none of it costs more than the last steps."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rotograd_cli.cli import main
from rotograd_cli.config.packing import available_cores
from rotograd_cli.errors import RUN_FAILED, ConfigError
from rotograd_cli.runs.directory import claimed
from tests.cli.conftest import environment
from tests.records import records
from tests.waiting import PATIENCE_S, wait_for

from .conftest import start
from .test_resume import (
    LONGER,
    SHORT,
    assert_same_run,
    begin,
    finish,
    longer_run,
    same,
    train,
    wait_until_it_has_saved,
    whole,
)

__all__ = ["longer_run"]  # a fixture

TINY = (
    *("logger=none", "device=cpu", "data=synthetic", "data.kind=regression"),
    *("data.input_shape=[5]", "data.num_outputs=1", "data.num_train=12", "data.num_val=4"),
    *("data.num_test=4", "backbone=mlp", "backbone.hidden=[4]", "backbone.num_features=6"),
    *("head=linear", "train.epochs=2", "train.batch_size=4"),
)


# ---- the run directory


def killed(tmp_path: Path) -> Path:
    """Folder of the checkpoints of a run that was killed when it had two."""
    folder = tmp_path / "run" / "checkpoints"
    process = begin(*LONGER, "hydra.run.dir=run", cwd=tmp_path)
    wait_until_it_has_saved(folder, process)
    process.kill()
    process.communicate()
    return folder


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Inside, nothing can be made in a folder, by the superuser neither."""
    if os.geteuid() == 0:
        if subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode:
            pytest.skip("this file system knows no immutable folders")
        undo = ["chattr", "-i", str(folder)]
    else:
        folder.chmod(0o555)
        undo = ["chmod", "755", str(folder)]
    try:
        yield
    finally:
        subprocess.run(undo, check=True)


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_ends_the_run_in_one_line(
    tmp_path: Path, longer_run: Path
) -> None:
    folder = tmp_path / "run" / "checkpoints"
    process = begin(*LONGER, "hydra.run.dir=run", cwd=tmp_path)
    wait_until_it_has_saved(folder, process)
    with read_only(folder):
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == RUN_FAILED, err
    assert "Traceback" not in err
    assert "last.pt cannot be written" in err.splitlines()[-1]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    finish(Path("run"), tmp_path)
    assert_same_run(tmp_path / "run", longer_run)


@pytest.mark.slow
def test_a_run_directory_that_is_deleted_ends_the_run_in_one_line(tmp_path: Path) -> None:
    process = begin(*LONGER, "hydra.run.dir=run", cwd=tmp_path)
    wait_until_it_has_saved(tmp_path / "run" / "checkpoints", process)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)  # it may write meanwhile
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == RUN_FAILED, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("rotograd: ")
    assert "run" in err.splitlines()[-1]


def test_a_directory_is_claimed_before_its_configuration_is_written(tmp_path: Path) -> None:
    """A second process that starts at the same moment changes nothing of the first one's run."""
    run = tmp_path / "run"
    with claimed(run) as claim:
        claim.begin({"seed": 1})
        found = (run / "config.yaml").read_text()
        said = f"must be free, but process {os.getpid()} on"
        with pytest.raises(ConfigError, match=said), claimed(run):
            pass
        assert (run / "config.yaml").read_text() == found
    with pytest.raises(ConfigError, match="holds a run already"), claimed(run) as claim:
        claim.begin({"seed": 2})
    assert (run / "config.yaml").read_text() == found
    with claimed(run) as claim:
        claim.begin()  # goes on


@pytest.mark.slow
@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, hours: int) -> None:
    """Wall clocks name folders and are recorded; durations and decisions use another one."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "real = time.time\n"
        "begun = lambda: os.path.exists('run/metrics.jsonl')\n"
        f"time.time = lambda: real() + {hours * 3600} * begun()\n"
    )
    from .conftest import CHECKOUT

    whole(*SHORT, "hydra.run.dir=wanted", cwd=tmp_path)
    path = f"{tmp_path}{os.pathsep}{CHECKOUT}"
    process = start(
        "train", *SHORT, "hydra.run.dir=run", cwd=tmp_path, path=path, OMP_NUM_THREADS="1"
    )
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert_same_run(tmp_path / "run", tmp_path / "wanted")
    assert 0 < json.loads((tmp_path / "run" / "summary.json").read_text())["wall_s"] < 2 * 3600


# ---- checkpoints


def damages(content: bytes, num: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Damage to every region of a file: bits flipped, bytes overwritten, cut out, put in."""
    draw = random.Random(seed)
    region = len(content) // num
    for index in range(num):
        at = index * region + draw.randrange(max(1, region))
        size = min(draw.choice((1, 16, 512)), len(content) - at)
        before, after = content[:at], content[at + size :]
        flipped = bytes(byte ^ (1 << draw.randrange(8)) for byte in content[at : at + size])
        yield f"flipped {size} at {at}", before + flipped + after
        yield f"zeros {size} at {at}", before + bytes(size) + after
        yield f"noise {size} at {at}", before + draw.randbytes(size) + after
        yield f"cut out {size} at {at}", before + after
        yield f"put in {size} at {at}", content[:at] + draw.randbytes(size) + content[at:]
        yield f"ends at {at}", before


def attack_checkpoints(tmp_path: Path, num: int) -> dict[str, int]:
    """Reads a real checkpoint with damage everywhere; how often it was refused, or the same."""
    from rotograd_cli.errors import CheckpointError
    from rotograd_cli.training.checkpoint import load_checkpoint

    path = killed(tmp_path) / "last.pt"
    content, wanted = path.read_bytes(), load_checkpoint(path)
    counts = {"refused": 0, "as saved": 0}
    for what, damaged in damages(content, num, seed=num):
        path.write_bytes(damaged)
        try:
            found = load_checkpoint(path)
        except CheckpointError:
            counts["refused"] += 1
        else:
            assert same(found, wanted), what
            counts["as saved"] += 1
    return counts


def test_a_checkpoint_with_damage_anywhere_is_refused_or_as_saved(tmp_path: Path) -> None:
    counts = attack_checkpoints(tmp_path, 20)
    assert counts["refused"] > 3 * counts["as saved"]


@pytest.mark.slow
def test_a_checkpoint_with_much_damage_is_refused_or_as_saved(tmp_path: Path) -> None:
    counts = attack_checkpoints(tmp_path, 500)
    print(f"damaged checkpoints: {counts}")  # noqa: T201 - the figure is the point
    assert sum(counts.values()) == 3000


@pytest.mark.slow
def test_a_run_goes_on_from_whatever_its_checkpoints_were_turned_into(
    tmp_path: Path, longer_run: Path
) -> None:
    """With ``last.pt`` damaged it ends as if nothing had happened; with both, it says so."""
    killed(tmp_path)
    saved = tmp_path / "saved"
    shutil.copytree(tmp_path / "run", saved)
    content = (saved / "checkpoints" / "last.pt").read_bytes()
    draw, went_on = random.Random(1), 0
    for _, damaged in draw.sample(list(damages(content, 50, seed=2)), 12):
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(saved, tmp_path / "run")
        (tmp_path / "run" / "checkpoints" / "last.pt").write_bytes(damaged)
        finish(Path("run"), tmp_path)
        assert_same_run(tmp_path / "run", longer_run)
        went_on += 1
    print(f"runs with a damaged last.pt: {went_on} of 12 went on")  # noqa: T201
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(saved, tmp_path / "run")
    for name in ("last.pt", "last.previous.pt"):
        (tmp_path / "run" / "checkpoints" / name).write_bytes(b"<html>")
    process = train("resume=run", cwd=tmp_path)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "last.previous.pt cannot be read as a checkpoint" in err.splitlines()[-1]


# ---- many runs at once


def started_together(folder: Path, num: int) -> list[int]:
    """Exit codes of runs that a process with everything imported starts in one go."""
    children = []
    os.chdir(folder)
    sys.stdout.flush()
    for index in range(num):
        child = os.fork()
        if child == 0:
            code = 70
            try:
                torch.set_num_threads(1)
                with open(folder / f"{index}.log", "w") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                    code = main(["train", *TINY])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


STARTER = """
import sys
from pathlib import Path
from rotograd_cli.cli import main
from tests.cli.test_attack_runs import TINY, started_together
num = int(sys.argv[1])
main(["train", *TINY, "hydra.run.dir=first"])
codes = started_together(Path.cwd(), num)
print("codes", {code: codes.count(code) for code in set(codes)})
"""


def many_runs(tmp_path: Path, num: int) -> None:
    from .conftest import CHECKOUT

    env = {**environment(), "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", STARTER, str(num)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert f"codes {{0: {num}}}" in result.stdout, result.stdout[-2000:] + result.stderr[-2000:]
    runs = list((tmp_path / "outputs" / "synthetic" / "rotograd").iterdir())
    assert len(runs) == num
    wanted = records(tmp_path / "first")
    for run in runs:
        assert json.loads((run / "summary.json").read_text())["status"] == "finished"
        assert records(run) == wanted


@pytest.mark.slow
def test_two_hundred_runs_started_in_the_same_second_do_not_meet(tmp_path: Path) -> None:
    many_runs(tmp_path, 200)


@pytest.mark.slow
def test_a_sweep_with_killed_cells_is_finished_by_the_same_command(tmp_path: Path) -> None:
    """Two of ten cells are killed (and with them joblib's pool); twice."""
    cells = ("-m", "method=vanilla,rotograd", f"seed={','.join(map(str, range(5)))}")
    words = (*SHORT, "train.epochs=12", *cells)
    whole(*words, "hydra.sweep.dir=wanted", cwd=tmp_path)
    local = ("launcher=local", f"launcher.jobs_per_device={available_cores()}")  # a thread each
    again = (*words, *local, "resume=auto", "hydra.sweep.dir=sweep")
    lost = 0
    for victim in (1, 6):
        process = start("train", *again, cwd=tmp_path, OMP_NUM_THREADS="1")
        run = tmp_path / "sweep" / str(victim)
        wait_for((run / "checkpoints" / "last.previous.pt").exists, process)
        os.kill(int((run / ".lock").read_text().split()[1]), signal.SIGKILL)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1, err
        assert "The launcher lost a job" in err.splitlines()[-1]
        assert "Traceback" not in err
        lost += 1
    process = start("train", *again, cwd=tmp_path, OMP_NUM_THREADS="1")
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    resumed = 0
    for number in range(10):
        assert_same_run(tmp_path / "sweep" / str(number), tmp_path / "wanted" / str(number))
        summary: Any = json.loads((tmp_path / "sweep" / str(number) / "summary.json").read_text())
        resumed += bool(summary.get("resumed_at_steps"))
    assert resumed >= lost
