"""Where numbers come from: versions, commit, machine."""

import platform
import shutil
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rotograd_cli import __version__

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "geotorch", "hydra-core", "omegaconf", "numpy")
"""Packages that results depend on."""


def package_versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the packages results depend on."""
    versions = {"rotograd-cli": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def source_commit() -> str | None:
    """Return the commit of the source checkout, with ``+`` if it was changed; None for a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return None
    return f"{commit}+" if _git(root, "status", "--porcelain") else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip()


def device_name(device: "torch.device") -> str:
    """Return a device with the name of its hardware: ``cuda:0 (NVIDIA H100)``."""
    import torch

    is_gpu = device.type == "cuda"
    return f"{device} ({torch.cuda.get_device_name(device) if is_gpu else platform.machine()})"
