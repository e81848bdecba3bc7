"""Worker processes of a launcher: what they need before a run, and what they say when they fail."""

import os
import shutil
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from rotograd_cli.printing.streams import endure
from rotograd_cli.runs.packing import available_gpus, packing_devices
from rotograd_cli.training import interrupts

GRACE_S = 5.0
"""Seconds that a run has to stop between two batches once the launching process is gone."""

LAUNCHERS = ("submitit", "joblib", "ray", "concurrent")
"""Packages whose own errors mean that a job was lost."""


class Worker(Callback):
    """Hydra callback that readies a launcher's worker process. Does nothing in the launching one.

    Hydra hands its callbacks to the workers, so that what is known where the sweep was started
    (command line, process, number of runs per device) travels with this object.

    Args:
        slots: Runs at once on all GPUs of this machine, which are then shared out evenly; None
            where the launcher, or nobody, takes care of that.
        device: The runs' ``device``.
    """

    def __init__(self, *, slots: int | None, device: str) -> None:
        self.slots = slots
        self.device = device
        self.launcher_pid = os.getpid()
        self.command = list(sys.argv)
        if slots is not None:
            _silence_resource_trackers()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before a run."""
        del kwargs
        if os.getpid() == self.launcher_pid:
            return
        sys.argv = list(self.command)  # the run's summary names the command
        endure()
        if os.getppid() == self.launcher_pid:
            _stop_with(self.launcher_pid)
        if self.slots is not None:
            self._take_device(self.slots, config.hydra.job.num)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """After a run."""
        del config, job_return, kwargs
        _free_slot()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """After a sweep."""
        del config, kwargs
        shutil.rmtree(slot_folder(self.launcher_pid), ignore_errors=True)

    def _take_device(self, slots: int, job: int) -> None:
        devices = packing_devices(self.device, available_gpus())
        if devices == [None]:
            return
        slot = take_slot(slot_folder(self.launcher_pid), slots, job)
        import torch

        torch.cuda.set_device(devices[slot % len(devices)])  # what device=auto means from now on


def _silence_resource_trackers() -> None:
    """After Ctrl-C, joblib's helper processes clean up, which they need not tell the user."""
    ignored = "ignore:resource_tracker"
    known = os.environ.get("PYTHONWARNINGS", "")
    if ignored not in known:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (known, ignored)))


_slot: IO[str] | None = None


def slot_folder(launcher_pid: int) -> Path:
    """Where the workers of a process agree on who is where."""
    return Path(tempfile.gettempdir()) / f"rotograd-{os.getuid()}-{launcher_pid}"


def take_slot(folder: Path, num_slots: int, job: int) -> int:
    """Takes a free slot for this process until its next run, or its end however that comes.

    Runs take different times, so that their numbers alone would put too many on one device.

    Args:
        folder: Where the slots are; made if absent.
        num_slots: Slots.
        job: Number of the run; where more runs than slots are under way, it waits for this one's.

    Returns:
        Index of the slot.
    """
    import fcntl  # POSIX only, and only this needs it

    global _slot
    _free_slot()
    folder.mkdir(mode=0o700, exist_ok=True)
    for index in range(num_slots):
        file = (folder / str(index)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            _slot = file
            return index
    _slot = (folder / str(job % num_slots)).open("w")
    fcntl.flock(_slot, fcntl.LOCK_EX)
    return job % num_slots


def _free_slot() -> None:
    global _slot
    if _slot is not None:
        _slot.close()
        _slot = None


_watched: set[int] = set()


def _stop_with(parent: int) -> None:
    """Ends this process when its parent is gone; a worker would train on, or wait for ever."""
    if parent in _watched:
        return
    _watched.add(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        interrupts.request()
        time.sleep(GRACE_S)
        os._exit(interrupts.EXIT_CODE)

    threading.Thread(target=watch, daemon=True).start()


def stop_launcher() -> list[str]:
    """Stops what a launcher runs beside its workers, as far as it does not stop by itself.

    Returns:
        Sentences on what goes on.
    """
    ray: Any = sys.modules.get("ray")
    slurm: Any = sys.modules.get("submitit.slurm.slurm")
    with suppress(Exception):  # whatever state they are in, the process is about to end
        if ray is not None and ray.is_initialized():
            ray.shutdown()
        if slurm is not None and (jobs := slurm.SlurmJob.watcher._registered):
            numbers = " ".join(sorted({job.partition("_")[0] for job in jobs}))
            return [f"SLURM goes on with what it was given; scancel {numbers} stops that."]
    return []


def launcher_failure(error: BaseException) -> str | None:
    """One line for a job that a launcher lost: killed, out of memory, out of time.

    Args:
        error: What the launcher raised.

    Returns:
        The line; None for any other error.
    """
    if type(error).__module__.partition(".")[0] not in LAUNCHERS:
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    reason = " ".join(lines[:2]) or "no reason given"
    return f"The launcher lost a job ({type(error).__name__}: {reason})"
