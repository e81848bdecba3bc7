"""`torchrun ... rotograd train`: several processes, one result, one voice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import environment
from tests.read_back import accumulator
from tests.records import records
from tests.waiting import PATIENCE_S, wait_for

from .conftest import CHECKOUT, Cli, start
from .test_resume import LONGER, SHORT, assert_same_run, whole

pytestmark = pytest.mark.xdist_group("many_ranks")

TWO = ("--nproc-per-node", "2")


def torchrun(*words: str, options: tuple[str, ...] = TWO, cwd: Path, **env: str) -> Any:
    """The command in two processes under torchrun."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", *options),
            *("-m", "rotograd_cli", *words),
        ],
        cwd=cwd,
        env={**environment(), "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: Any, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, out + err
    return out, err


def ranks_of(run: Path, launcher: Any) -> list[int]:
    """Process numbers of the ranks, once they have saved the run."""
    file = run / "checkpoints" / "last.pt"
    before = file.stat().st_mtime_ns if file.exists() else 0
    wait_for(lambda: file.exists() and file.stat().st_mtime_ns != before, launcher)
    found = subprocess.run(
        ["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True, check=True
    )
    return [int(word) for word in found.stdout.split()]


@pytest.fixture(scope="module")
def longer_run_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of ``LONGER`` in two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("two")
    finished(torchrun("train", *LONGER, "hydra.run.dir=wanted", cwd=folder))
    return folder / "wanted"


@pytest.mark.slow
def test_two_processes_train_as_one_and_the_first_one_speaks(tmp_path: Path) -> None:
    whole(*SHORT, "hydra.run.dir=alone", cwd=tmp_path)
    out, err = finished(torchrun("train", *SHORT, "hydra.run.dir=two", cwd=tmp_path))
    assert out.count("Run directory: two") == 1
    assert err.count("RotoGrad on multidigits") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "two"]
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["num_ranks"] == 2
    assert summary["collectives_per_step"] > 0
    for found, wanted in zip(records(tmp_path / "two"), records(tmp_path / "alone"), strict=True):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)  # float32


@pytest.mark.slow
def test_pictures_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    words = (*SHORT[1:], "train.eval_batch_size=5", "train.limit_eval_batches=9")
    pictures = ("logger=tensorboard", "logger.images=4", "logger.confusion=true")
    whole(*words, *pictures, "hydra.run.dir=alone", cwd=tmp_path)
    finished(torchrun("train", *words, *pictures, "hydra.run.dir=two", cwd=tmp_path))
    two, alone = (accumulator(tmp_path / name) for name in ("two", "alone"))
    names = alone.Tags()["images"]
    assert len(names) == 4
    for name in names[1:]:  # confusions of all 45 examples; answers of examples are rounded
        shown = [(p.step, p.encoded_image_string) for p in two.Images(name)]
        assert shown == [(p.step, p.encoded_image_string) for p in alone.Images(name)], name
    assert [p.step for p in two.Images(names[0])] == [6, 12, 18, 24]


ABORTS_AT_EXIT = """
import atexit, os
if os.environ.get("RANK") == "1":
    atexit.register(os.abort)
"""


@pytest.mark.slow
def test_a_rank_that_has_done_its_work_cannot_fail_while_python_shuts_down(tmp_path: Path) -> None:
    """As threads of gloo make it fail, once in a while."""
    (tmp_path / "sitecustomize.py").write_text(ABORTS_AT_EXIT)
    path = f"{tmp_path}{os.pathsep}{CHECKOUT}"
    words = ("train", *SHORT, "train.epochs=1", "hydra.run.dir=run")
    finished(torchrun(*words, cwd=tmp_path, PYTHONPATH=path))


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_and_a_restart_goes_on_with_the_same_bits(
    tmp_path: Path, longer_run_of_two: Path
) -> None:
    words = ("train", *LONGER, "hydra.run.dir=run")
    killed = torchrun(*words, cwd=tmp_path)
    os.kill(ranks_of(tmp_path / "run", killed)[1], signal.SIGKILL)
    _, err = killed.communicate(timeout=PATIENCE_S)  # gloo alone would wait for 30 minutes
    assert killed.returncode != 0
    assert "Signal 9 (SIGKILL)" in err
    again = torchrun(*words, "resume=auto", options=("--max-restarts", "2", *TWO), cwd=tmp_path)
    os.kill(ranks_of(tmp_path / "run", again)[0], signal.SIGKILL)  # torchrun starts both anew
    finished(again)
    assert_same_run(tmp_path / "run", longer_run_of_two)


@pytest.mark.slow
def test_a_signal_stops_all_ranks_after_the_same_step(
    tmp_path: Path, longer_run_of_two: Path
) -> None:
    process = torchrun("train", *LONGER, "hydra.run.dir=run", cwd=tmp_path)
    ranks = ranks_of(tmp_path / "run", process)
    os.kill(ranks[1], signal.SIGUSR1)  # one of them alone is told
    _, err = process.communicate(timeout=PATIENCE_S)
    assert "continue with: rotograd train resume=" in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    finished(torchrun("train", "resume=run", cwd=tmp_path))
    assert_same_run(tmp_path / "run", longer_run_of_two)


@pytest.mark.slow
def test_wrong_input_is_said_once(tmp_path: Path) -> None:
    process = torchrun("train", *SHORT, "train.batch_size=1", cwd=tmp_path)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert err.count("rotograd: ") == 1, err
    assert "must give each of the 2 ranks an example, got 1" in err
    assert "exitcode  : 2" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_wrong_data_are_said_once(tmp_path: Path) -> None:
    """The first rank looks at the data for all, without waiting for any."""
    file = tmp_path / "conf" / "data" / "faulty.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("_target_: tests.faulty.Faulty\n_partial_: true\nkind: column\n")
    words = ("--config-dir", "conf", "data=faulty", "backbone=mlp", "logger=none", "device=cpu")
    process = torchrun("train", *words, cwd=tmp_path)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert err.count("rotograd: ") == 1, err
    assert "split train, task 'size': the target must have shape" in err
    assert [path.name for path in tmp_path.iterdir()] == ["conf"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "-m", "seed=0,1"), "torchrun starts one training, got a sweep in 2 processes"),
        (("evaluate", "run=x"), "got rotograd evaluate in 2 processes; start it without torchrun"),
    ],
)
def test_what_is_no_single_training_is_refused_before_ranks_meet(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    result = cli(*words)
    assert result.code == 2
    assert said in result.err
    assert len(result.err.splitlines()) == 1


FAULTY = """
import os
from torch import nn

class Faulty(nn.Module):
    def __init__(self, *, input_shape):
        super().__init__()
        self.linear = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], 8)
    def forward(self, x):
        if os.environ.get("RANK") == "1" and self.training:
            raise ValueError("a bug on one rank")
        return self.linear(x.flatten(1))
"""


@pytest.mark.slow
def test_a_bug_on_one_rank_is_named_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    (tmp_path / "mine" / "backbone").mkdir(parents=True)
    config = "_target_: faulty.Faulty\n_partial_: true\n"
    (tmp_path / "mine" / "backbone" / "faulty.yaml").write_text(config)
    words = ("--config-dir", "mine", "backbone=faulty", "hydra.run.dir=run", *SHORT)
    words = tuple(word for word in words if not word.startswith("backbone.num_features"))
    process = torchrun(
        "train", *words, cwd=tmp_path, PYTHONPATH=f"{CHECKOUT}{os.pathsep}{tmp_path}"
    )
    _, err = process.communicate(timeout=PATIENCE_S)  # gloo alone would wait for 30 minutes
    assert "rank 1 of 2 failed:" in err
    assert 'raise ValueError("a bug on one rank")' in err
    # both die within torchrun's second, so that either may come as the root cause
    assert "ValueError: a bug on one rank" in err.split(" FAILED")[1]


@pytest.mark.slow
def test_the_tasks_of_a_submitit_job_are_ranks(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    launcher = ("hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2")
    process = start(
        *("train", "-m", *SHORT, *launcher, "seed=0", "hydra.sweep.dir=sweep"),
        cwd=tmp_path,
        OMP_NUM_THREADS="1",
    )
    finished(process)
    summary = json.loads((tmp_path / "sweep" / "0" / "summary.json").read_text())
    assert (summary["status"], summary["num_ranks"]) == ("finished", 2)
