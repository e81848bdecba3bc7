"""How many runs at once, and where each of them goes."""

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
import torch

from rotograd_cli.commands.support.session import launcher_failure
from rotograd_cli.commands.sweeps import workers
from rotograd_cli.commands.sweeps.cells import check_direction
from rotograd_cli.commands.sweeps.workers import Worker, take_slot
from rotograd_cli.config.packing import num_jobs, num_threads, packing_devices
from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.building import resolve_device


def test_runs_at_once_are_those_per_device_times_the_devices() -> None:
    for per_device, device, num_gpus, expected in (
        (None, "auto", 0, 8),  # one per core
        (3, "auto", 0, 3),
        (None, "auto", 2, 2),  # one per GPU
        (3, "auto", 2, 6),
        (3, "cuda", 2, 6),
        (3, "cuda:1", 2, 3),  # all on the GPU that was named
        (None, "cuda:1", 2, 1),
        (None, "cpu", 2, 8),
    ):
        assert num_jobs(per_device, device, num_gpus=num_gpus, num_cores=8) == expected


def test_less_than_one_run_per_device_is_refused() -> None:
    for per_device in (0, -1):
        with pytest.raises(ConfigError, match=r"`launcher.jobs_per_device` must be at least 1"):
            num_jobs(per_device, "auto", num_gpus=1, num_cores=1)


def test_the_threads_of_all_runs_are_at_most_the_cores() -> None:
    for jobs in range(1, 20):
        threads = num_threads(jobs, 8)
        assert threads >= 1
        assert jobs * threads <= max(8, jobs)
        assert jobs * (threads + 1) > 8  # no core is left that could be divided


Hold = Callable[[Path, int], IO[str]]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Takes a slot as another process would."""
    files: list[IO[str]] = []

    def take(folder: Path, index: int) -> IO[str]:
        folder.mkdir(exist_ok=True)
        files.append((folder / str(index)).open("w"))
        fcntl.flock(files[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        return files[-1]

    yield take
    for file in files:
        file.close()


def test_a_run_takes_the_first_slot_that_nobody_has(tmp_path: Path, hold: Hold) -> None:
    others = [hold(tmp_path, index) for index in (0, 1, 3)]
    assert take_slot(tmp_path, 4, job=0)[0] == 2
    others[0].close()  # that run ended, or its process died
    assert take_slot(tmp_path, 4, job=7)[0] == 0
    hold(tmp_path, 2)  # the slot that it had is free


def test_a_run_waits_where_every_slot_is_taken(tmp_path: Path, hold: Hold) -> None:
    others = [hold(tmp_path, index) for index in (0, 1)]
    threading.Timer(0.2, others[1].close).start()
    assert take_slot(tmp_path, 2, job=5)[0] == 1
    assert not others[0].closed


def job(number: int) -> Any:
    return SimpleNamespace(hydra=SimpleNamespace(job=SimpleNamespace(num=number)))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A machine with two GPUs; what becomes the current one."""
    chosen: list[int] = []
    monkeypatch.setattr(workers, "available_gpus", lambda: 2)
    monkeypatch.setattr(workers, "slot_folder", lambda pid: tmp_path / str(pid))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def in_a_worker(monkeypatch: pytest.MonkeyPatch, worker: Worker) -> None:
    worker.launcher_pid = -1  # somebody else
    worker.command = ["rotograd train", "-m", "seed=0,1"]
    monkeypatch.setattr(sys, "argv", ["worker.py"])


def test_slots_are_dealt_to_the_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, two_gpus: list[int], tmp_path: Path, hold: Hold
) -> None:
    worker = Worker(slots=4, device="auto")
    in_a_worker(monkeypatch, worker)
    for number in range(4):
        worker.on_job_start(job(number))
        worker.on_job_end(job(number), job_return=None)  # type: ignore[arg-type]
        hold(tmp_path / "-1", number)  # a run in another process takes its place
    assert two_gpus == [0, 1, 0, 1]
    assert sys.argv == ["rotograd train", "-m", "seed=0,1"]


@pytest.mark.parametrize(("slots", "device"), [(None, "auto"), (4, "cuda:1"), (4, "cpu")])
def test_a_device_that_somebody_else_chose_stays(
    monkeypatch: pytest.MonkeyPatch, two_gpus: list[int], slots: int | None, device: str
) -> None:
    worker = Worker(slots=slots, device=device)
    in_a_worker(monkeypatch, worker)
    worker.on_job_start(job(1))
    assert two_gpus == []


def test_the_launching_process_itself_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, two_gpus: list[int]
) -> None:
    worker = Worker(slots=4, device="auto")
    assert worker.launcher_pid == os.getpid()
    monkeypatch.setattr(sys, "argv", ["changed"])
    worker.on_job_start(job(1))
    assert (two_gpus, sys.argv) == ([], ["changed"])


def test_auto_and_cuda_mean_the_current_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for name in ("auto", "cuda", "cuda:1"):
        assert resolve_device(name) == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)


def test_all_gpus_are_shared_only_where_none_is_named() -> None:
    assert packing_devices("cuda", 3) == [0, 1, 2]
    assert packing_devices("cuda:2", 3) == packing_devices("cpu", 3) == [None]


def test_a_search_must_go_the_way_epochs_are_selected() -> None:
    check_direction({"max_batch_size": None}, "max")  # Hydra's own sweeper does not search
    check_direction({"direction": "maximize"}, "max")
    with pytest.raises(ConfigError, match=r"must be maximize, as train.select_mode is max"):
        check_direction({"direction": "minimize"}, "max")


def test_only_a_launchers_own_error_is_a_lost_job() -> None:
    lost = type("UncompletedJobError", (Exception,), {"__module__": "submitit.core.utils"})
    message = launcher_failure(lost("Job 4 has not produced any output\n----\n(state: TIMEOUT)"))
    assert message is not None
    assert "UncompletedJobError: Job 4 has not produced any output (state: TIMEOUT)" in message
    assert launcher_failure(ValueError("a bug")) is None
