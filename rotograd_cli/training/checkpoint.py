"""Files of checkpoints: written atomically, read without executing code."""

import hashlib
import io
import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from rotograd_cli.errors import CheckpointError, first_line, suggested
from rotograd_cli.files import replace_file

FORMAT = 2
STATES = {"model", "followed"}
"""Entries of a checkpoint that are states of the model."""
_READABLE = (1, FORMAT)  # 1 has everything in every checkpoint, and rotations as whole matrices
logger = logging.getLogger(__name__)


def serialized(content: dict[str, Any]) -> memoryview:
    """Return the bytes of a checkpoint, a copy in the host's memory.

    Args:
        content: Tensors and plain values only, so that it can be loaded with ``weights_only=True``.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    return buffer.getbuffer()


def write_checkpoint(path: Path, data: memoryview) -> None:
    """Write a checkpoint whole or not at all, and keep the one that it replaces.

    The old one stays beside it under the name of :func:`previous_of`. A process that is killed at
    any moment leaves one of the two complete under its name, and none half written.

    Args:
        path: Target; its folder exists.
        data: Its bytes (:func:`serialized`).

    Raises:
        CheckpointError: If it cannot be written; what was there is left as it is.
    """

    def write(file: IO[bytes]) -> None:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        if path.exists():
            link(path, previous_of(path), otherwise=os.replace)

    try:
        replace_file(path, write)
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({first_line(error)}); fix that, then go on from the last "
            f"good checkpoint with {suggested('train', f'resume={path.parent.parent}')}."
        ) from error


def previous_of(path: Path) -> Path:
    """Return the name of a replaced checkpoint: ``last.previous.pt`` of ``last.pt``."""
    return path.with_suffix(f".previous{path.suffix}")


def link(path: Path, name: Path, otherwise: Callable[[Path, Path], object]) -> None:
    """Give a file another name, which costs no bytes: a checkpoint is never changed in place.

    Args:
        path: The file.
        name: The other name; what had it loses it.
        otherwise: What to do on a file system without links.
    """
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        otherwise(path, name)


def _sync_folder(folder: Path) -> None:
    """Make new names survive a loss of power, where the system has that for folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def has_checkpoint(folder: Path) -> bool:
    """Return whether :func:`load_newest` finds something."""
    last = folder / "last.pt"
    return last.exists() or previous_of(last).exists()


def load_newest(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Return the newest checkpoint that can be read: ``last.pt``, or its predecessor and warn.

    Args:
        folder: Folder of the checkpoints.
        device: Where its tensors go.

    Returns:
        What was saved; None if the run was stopped before its first checkpoint.

    Raises:
        CheckpointError: If there are checkpoints and none can be read.
    """
    last = folder / "last.pt"
    previous = previous_of(last)
    if not last.exists():
        return load_checkpoint(previous, device) if previous.exists() else None
    try:
        return load_checkpoint(last, device)
    except CheckpointError as error:
        if not previous.exists():
            raise
        content = load_checkpoint(previous, device)
        logger.warning("%s Going back to %s.", error, previous.name)
        return content


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; never executes code from it.

    Args:
        path: The file.
        device: Where its tensors go.

    Returns:
        What was saved.

    Raises:
        CheckpointError: If the file is missing, corrupt, not a checkpoint or of another format.
    """
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint {path}; train the run first, or try checkpoint=last."
        )
    try:
        content = _read(path, device)
    except Exception as error:  # damaged and foreign bytes make an unpickler raise anything
        # never torch's words: they advise to read it in the way that executes code
        reason = "it is damaged, or holds more than tensors and plain values"
        if isinstance(error, (OSError, MemoryError, torch.OutOfMemoryError)):
            reason = first_line(error)
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({reason}); copy it again, or train the run "
            "again."
        ) from error
    if not isinstance(content, dict) or content.get("format") not in _READABLE:
        raise CheckpointError(f"{path} is not a checkpoint of this version (format {FORMAT}).")
    return with_bases(content, path, device)


def with_bases(
    content: dict[str, Any], path: Path, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Return a checkpoint with the state that was left out of it, from the file beside it.

    Args:
        content: What the file of the checkpoint holds; changed.
        path: That file.
        device: Where tensors go.

    Raises:
        CheckpointError: If the file beside it is missing, or of another run.
    """
    expected = content.get("bases")
    if not isinstance(expected, str):
        return content
    file = bases_file(path.parent, expected)
    bases = load_checkpoint(file, device).get("model", {}) if file.is_file() else {}
    if fingerprint(bases) != expected:
        state = "holds others" if bases else "is not there"
        raise CheckpointError(
            f"{path} needs {file}, with the bases of its rotations, which {state}; copy the run's "
            "whole folder of checkpoints."
        )
    for name in STATES & content.keys():
        if not isinstance(content[name], dict):
            raise CheckpointError(
                f"{path} cannot be read as a checkpoint ({name} holds no tensors by name); copy it "
                "again, or train the run again."
            )
        content[name].update(bases)
    return content


def bases_file(folder: Path, fingerprint: str) -> Path:
    """Return the file of the bases, which the checkpoints in a folder have in common."""
    return folder / f"bases.{fingerprint[:12]}.pt"


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors, in hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path, device: torch.device | str) -> Any:
    with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} in it is damaged")
    with warnings.catch_warnings(action="ignore"):  # torch's remarks on foreign pickles
        return torch.load(path, map_location=device, weights_only=True)
