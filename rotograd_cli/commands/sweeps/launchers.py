"""What Hydra's launchers leave to this program when a sweep ends early. Imports none of them."""

import sys
from contextlib import suppress
from typing import Any

LAUNCHERS = ("submitit", "joblib", "ray", "concurrent")
"""Packages whose own errors mean that a job was lost."""


def stop_launcher() -> list[str]:
    """Stop what a launcher runs beside its workers, as far as it does not stop by itself.

    Returns:
        Sentences on what continues.
    """
    ray: Any = sys.modules.get("ray")
    slurm: Any = sys.modules.get("submitit.slurm.slurm")
    with suppress(Exception):  # whatever state they are in, the process is about to end
        if ray is not None and ray.is_initialized():
            ray.shutdown()
        jobs = [] if slurm is None else slurm.SlurmJob.watcher._registered
        if jobs:
            numbers = " ".join(sorted({job.partition("_")[0] for job in jobs}))
            return [f"SLURM continues with what it was given; scancel {numbers} stops that."]
    return []


def launcher_failure(error: BaseException) -> str | None:
    """Return one line for a job that a launcher lost: killed, out of memory, out of time.

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
