"""The machine that figures belong to."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rotograd_cli.runs.packing import available_cores
from rotograd_cli.runs.provenance import package_versions, source_commit


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what figures depend on besides the code, as far as it can be found out.

    Args:
        device: Where the benchmark runs.
    """
    is_gpu = device.type == "cuda"
    return {
        "cpu": cpu_model(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if is_gpu else None,
        "cuda": torch.version.cuda if is_gpu else None,
        "system": platform.system(),
        "versions": package_versions(),
        "commit": source_commit(),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the processor: the kernel's where it tells, else the platform's."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), "") or platform.processor() or platform.machine()


def one_line(machine: Mapping[str, Any]) -> str:
    """Return the machine in one line, for tables."""
    versions = machine["versions"]
    parts = [
        machine["gpu"],
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads",
        f"torch {versions['torch']}",
        f"Python {versions['python']}",
    ]
    return "; ".join(filter(None, parts))
