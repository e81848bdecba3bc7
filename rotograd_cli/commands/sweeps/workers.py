"""Worker processes of a launcher: what they need before a run."""

import os
import shutil
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from rotograd_cli.config.packing import available_gpus, packing_devices
from rotograd_cli.printing.streams import endure
from rotograd_cli.training import interrupts

GRACE_S = 5.0
"""Seconds that a run has to stop between two batches once the launching process is gone."""


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
        self._slot: BaseFileLock | None = None
        if slots is not None:
            _silence_resource_trackers()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prepare the process before a run."""
        if os.getpid() == self.launcher_pid:
            return
        sys.argv = list(self.command)  # the run's summary names the command
        endure()
        if os.getppid() == self.launcher_pid:
            _stop_with(self.launcher_pid)
        if self.slots is not None:
            self._take_device(self.slots, config.hydra.job.num)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Free the slot after a run."""
        if self._slot is not None:
            self._slot.release()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Remove the slots after a sweep."""
        shutil.rmtree(slot_folder(self.launcher_pid), ignore_errors=True)

    def _take_device(self, slots: int, job: int) -> None:
        devices = packing_devices(self.device, available_gpus())
        if devices == [None]:
            return
        index, self._slot = take_slot(slot_folder(self.launcher_pid), slots, job)
        import torch

        torch.cuda.set_device(devices[index % len(devices)])  # what device=auto means from now on


def _silence_resource_trackers() -> None:
    """After Ctrl-C, joblib's helper processes clean up, which they need not tell the user."""
    ignored = "ignore:resource_tracker"
    before = os.environ.get("PYTHONWARNINGS", "")
    if ignored not in before:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, ignored)))


def slot_folder(launcher_pid: int) -> Path:
    """Return the folder in which the workers of a process agree on who is where."""
    return Path(tempfile.gettempdir()) / f"rotograd-{os.getuid()}-{launcher_pid}"


def take_slot(folder: Path, num_slots: int, job: int) -> tuple[int, BaseFileLock]:
    """Take a free slot until it is released or the process ends, however that comes.

    Runs take different times, so that their numbers alone would put too many on one device.

    Args:
        folder: Where the slots are; made if absent.
        num_slots: Slots.
        job: Number of the run; where more runs than slots are under way, it waits for this one's.

    Returns:
        Index and lock of the slot.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    locks = [FileLock(folder / str(index)) for index in range(num_slots)]
    for index, lock in enumerate(locks):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        return index, lock
    locks[job % num_slots].acquire()
    return job % num_slots, locks[job % num_slots]


@cache
def _stop_with(parent: int) -> None:
    """End this process when its parent is gone; a worker would train on, or wait for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        interrupts.request()
        time.sleep(GRACE_S)
        os._exit(interrupts.EXIT_CODE)

    threading.Thread(target=watch, daemon=True).start()
