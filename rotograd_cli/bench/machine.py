"""The machine that figures belong to."""

import platform
from pathlib import Path
from typing import Any

import torch

from rotograd_cli.runs.packing import available_cores
from rotograd_cli.runs.provenance import package_versions, source_commit


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What figures depend on besides the code, as far as it can be found out.

    Args:
        device: Where the benchmark runs.

    Returns:
        Plain values.
    """
    return {
        "cpu": cpu_model(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "system": platform.system(),
        "versions": package_versions(),
        "commit": source_commit(),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor: the kernel's where it tells, else the platform's."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), "") or platform.processor() or platform.machine()


def one_line(machine: dict[str, Any]) -> str:
    """The machine in one line, for tables."""
    versions = machine["versions"]
    parts = [
        machine["gpu"],
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads",
        f"torch {versions['torch']}",
        f"Python {versions['python']}",
    ]
    return "; ".join(filter(None, parts))
