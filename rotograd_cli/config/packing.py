"""Several runs on one machine: how many at once, on which device, with how many threads."""

import os

from omegaconf import OmegaConf

from rotograd_cli.errors import ConfigError


def packing_devices(device: str, num_gpus: int) -> list[int | None]:
    """The devices that the runs of a sweep are spread over.

    Args:
        device: The runs' ``device``: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
        num_gpus: GPUs that are visible.

    Returns:
        Indices of GPUs; ``[None]`` where nothing is to be assigned, because the runs name their
        device or there is the CPU alone.

    Examples:
        >>> packing_devices("auto", 2), packing_devices("cuda:1", 2), packing_devices("auto", 0)
        ([0, 1], [None], [None])
    """
    return list(range(num_gpus)) if device in ("auto", "cuda") and num_gpus > 0 else [None]


def num_jobs(jobs_per_device: int | None, device: str, *, num_gpus: int, num_cores: int) -> int:
    """Runs at once on this machine.

    Args:
        jobs_per_device: Runs at once on each GPU, or on the CPU where the runs use that; None
            takes one per GPU, and on a CPU one per core.
        device: The runs' ``device``.
        num_gpus: GPUs that are visible.
        num_cores: Cores that this process may use.

    Returns:
        The number, at least 1.

    Raises:
        ConfigError: If ``jobs_per_device`` is below 1.

    Examples:
        >>> num_jobs(3, "auto", num_gpus=2, num_cores=16)
        6
        >>> num_jobs(None, "cpu", num_gpus=2, num_cores=16)
        16
    """
    if jobs_per_device is not None and jobs_per_device < 1:
        raise ConfigError(
            f"`launcher.jobs_per_device` must be at least 1, got {jobs_per_device}; null takes one "
            "per GPU, or one per core of a CPU."
        )
    default = 1 if uses_gpu(device, num_gpus) else num_cores
    jobs = default if jobs_per_device is None else jobs_per_device
    return jobs * len(packing_devices(device, num_gpus))


def uses_gpu(device: str, num_gpus: int) -> bool:
    """Whether runs with this ``device`` use a GPU."""
    return device.startswith("cuda") or (device == "auto" and num_gpus > 0)


def num_threads(jobs: int, num_cores: int) -> int:
    """Threads of each of several runs at once, so that together they have the cores and no more.

    Args:
        jobs: Runs at once.
        num_cores: Cores that this process may use.

    Returns:
        The number, at least 1.
    """
    return max(1, num_cores // jobs)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_gpus() -> int:
    """GPUs that are visible to torch."""
    import torch

    return torch.cuda.device_count()


def register_resolvers() -> None:
    """Register resolvers for YAML: ``${rotograd.num_jobs:JOBS_PER_DEVICE,DEVICE}`` and so on.

    ``rotograd.num_jobs`` are runs at once, ``rotograd.num_threads`` the threads of each, and
    ``rotograd.gpu_share`` the part of a GPU that each takes (0 on a CPU). ``rotograd.process`` is
    the number of the process that composed the configuration.
    """

    def jobs(per_device: int | None, device: str) -> int:
        gpus, cores = available_gpus(), available_cores()
        return num_jobs(per_device, device, num_gpus=gpus, num_cores=cores)

    def threads(per_device: int | None, device: str) -> int:
        return num_threads(jobs(per_device, device), available_cores())

    def gpu_share(per_device: int | None, device: str) -> float:
        jobs(per_device, device)  # refuses what is below 1
        return 1 / (per_device or 1) if uses_gpu(device, available_gpus()) else 0

    resolvers = {"num_jobs": jobs, "num_threads": threads, "gpu_share": gpu_share}
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(f"rotograd.{name}", resolver, replace=True)
    OmegaConf.register_new_resolver(
        "rotograd.process", lambda: os.getpid(), replace=True, use_cache=True
    )
