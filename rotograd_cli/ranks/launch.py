"""Joining the job of a launcher (torchrun, or SLURM's srun through submitit), and leaving it.

A launcher starts this program several times; environment variables give each process its rank.
Nothing here imports torch before a job is joined.
"""

import os
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rotograd_cli.errors import ConfigError, RankError, first_line

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from rotograd_cli.ranks.base import Ranks

_MEETING_S = 300.0
_joined = False
_FIRST_SPEAKS_S = 5.0  # the launcher stops the others meanwhile


def job_size() -> int:
    """Return the number of processes of this job; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def job_rank() -> int:
    """Return the rank of this process in its job, from 0."""
    return int(os.environ.get("RANK", "0")) if job_size() > 1 else 0


def read_launcher() -> None:
    """Set RANK and WORLD_SIZE from submitit's environment unless torchrun has set them."""
    if "SUBMITIT_EXECUTOR" not in os.environ or "WORLD_SIZE" in os.environ:
        return
    from submitit.helpers import TorchDistributedEnvironment

    environment = TorchDistributedEnvironment()
    if environment.world_size > 1:
        environment.export(set_cuda_visible_devices=False)


@contextmanager
def joined(device: str) -> Iterator["Ranks"]:
    """Inside, the processes of the job can communicate.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``, as configured.

    Yields:
        The ranks; without a launcher the one of an ordinary run.

    Raises:
        ConfigError: If this process has no device of its own.
    """
    from rotograd_cli.ranks.base import ONE

    if job_size() == 1:
        yield ONE
        return
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_cuda:
        _take_device(device)
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_cuda else "gloo",
        store=PrefixStore(meet(store, rank, size), store),
        rank=rank,
        world_size=size,
    )
    from rotograd_cli.ranks.many import ManyRanks

    global _joined
    _joined = True
    yield ManyRanks()
    dist.destroy_process_group()  # after an error the others may wait: the process just ends


def end_process(code: int) -> None:
    """End a process that has joined a job at once; return in any other.

    Threads of gloo live as long as anything refers to the group. A thread that asks for Python's
    lock while the interpreter shuts down aborts a process that has done all its work ("terminate
    called without an active exception"), and the launcher reports a failure.

    Args:
        code: Exit code.
    """
    if not _joined:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def meet(store: "Store", rank: int, size: int) -> str:
    """Agree on a name for this attempt of a job that no earlier attempt has used.

    torchrun gives every attempt the same store. A restarted job would take the addresses of
    processes that are gone for those of their successors, and wait for ever.

    Args:
        store: Store that all ranks of all attempts share.
        rank: Rank of this process.
        size: Number of processes.

    Returns:
        The name, which rank 0 draws; the same on all ranks.

    Raises:
        RankError: If not all ranks start in time.
    """
    mine = uuid.uuid4().hex
    deadline = time.monotonic() + _MEETING_S
    if rank > 0:
        store.set(f"hello/{rank}", mine)
        while not store.check([f"name/{mine}"]):
            _wait(deadline, rank, size)
        name = store.get(f"name/{mine}").decode()
        store.set(f"here/{name}/{rank}", "")
        return name
    missing = set(range(1, size))
    while missing:
        for other in sorted(missing):
            if store.check([f"here/{mine}/{other}"]):
                missing.remove(other)
            elif store.check([f"hello/{other}"]):  # maybe of a process that is gone
                store.set(f"name/{store.get(f'hello/{other}').decode()}", mine)
        if missing:
            _wait(deadline, rank, size)
    return mine


def _wait(deadline: float, rank: int, size: int) -> None:
    if time.monotonic() > deadline:
        raise RankError(
            f"The {size} ranks must all start within {_MEETING_S:.0f} s, got rank {rank} waiting "
            "for others; look at what they say, or start the job again."
        )
    time.sleep(0.02)


def _take_device(device: str) -> None:
    import torch

    local = int(os.environ.get("LOCAL_RANK", "0"))
    num_devices = torch.cuda.device_count()
    if device not in ("auto", "cuda"):
        raise ConfigError(
            f"`device` must leave each of the {job_size()} ranks a device of its own, got "
            f"{device!r}; use device=cuda or device=cpu."
        )
    if local >= num_devices:
        raise ConfigError(
            f"`--nproc-per-node` must be at most the {num_devices} CUDA devices of this machine, "
            f"got rank {local} on it; start fewer processes or use device=cpu."
        )
    torch.cuda.set_device(local)


def say_failure(message: str) -> None:
    """Print a line on standard error; a line that all ranks print should come from rank 0 first.

    Args:
        message: The line.
    """
    if job_rank() > 0:
        time.sleep(_FIRST_SPEAKS_S)
        message = f"rank {job_rank()} of {job_size()}: {message}"
    print(message, file=sys.stderr, flush=True)


def say_death(error: BaseException) -> None:
    """Print what ended this process of a job, and tell the launcher, which ends the others.

    Args:
        error: An error that is neither wrong input nor an interrupt.
    """
    name = f"rank {job_rank()} of {job_size()}"
    lost = lost_other(error)
    if lost is not None:
        print(f"{name}: {lost}", file=sys.stderr, flush=True)
        return
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    with suppress(OSError):
        get_error_handler().record_exception(error)  # where torchrun reads the cause
    text = "".join(traceback.format_exception(error))
    print(f"{name} failed:\n{text}", file=sys.stderr, end="", flush=True)


def lost_other(error: BaseException) -> str | None:
    """Return a line for an operation that failed because another process is gone.

    Args:
        error: What was raised in this process.

    Returns:
        A line; None if the error is another one.
    """
    if job_size() == 1:
        return None
    import torch.distributed as dist

    signs = ("gloo", "NCCL", "Connection closed", "Connection reset")
    is_named = isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    if not (is_named or isinstance(error, dist.DistError)):
        return None
    reason = first_line(error).split(". ")[0]
    return f"Another rank is gone ({reason}); rotograd train resume=auto continues."
