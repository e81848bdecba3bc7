"""Checkpoints: written atomically, read without executing code."""

import logging
import os
import shutil
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rotograd_cli.errors import CheckpointError, first_line, suggested

FORMAT = 1
logger = logging.getLogger(__name__)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint: to a temporary file first, then in the place of the old one.

    The old one stays beside it under the name of :func:`previous_of`. A process that is killed at
    any moment leaves one of the two complete under its name, and none half written.

    Args:
        path: Target; its folder exists.
        content: Tensors and plain values only, so that it can be loaded with ``weights_only=True``.

    Raises:
        CheckpointError: If it cannot be written; what was there is left as it is.
    """
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            _keep(path, previous_of(path))
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__ or error
        reason = getattr(cause, "strerror", None) or first_line(cause)
        raise CheckpointError(
            f"{path} cannot be written ({reason}); fix that, then go on from the last good "
            f"checkpoint with {suggested('train', f'resume={path.parent.parent}')}."
        ) from error


def previous_of(path: Path) -> Path:
    """Where the checkpoint goes that a newer one replaced: ``last.pt`` to ``last.previous.pt``."""
    return path.with_suffix(f".previous{path.suffix}")


def _keep(path: Path, other: Path) -> None:
    """Another name for a file, without a moment in which the first one is not there."""
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # a file system without links
        path.replace(other)


def _sync_folder(folder: Path) -> None:
    """Makes new names survive a loss of power, where the system has that for folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def keep_epoch(folder: Path, epoch: int, num: int) -> None:
    """Keeps ``last.pt`` as the checkpoint of its epoch, and the newest ``num`` of these.

    Args:
        folder: Folder of the checkpoints.
        epoch: Finished epochs.
        num: How many to keep, at least 1.
    """
    _keep_copy(folder / "last.pt", folder / f"epoch_{epoch:05d}.pt")
    for path in sorted(folder.glob("epoch_*.pt"))[:-num]:
        path.unlink()


def _keep_copy(path: Path, copy: Path) -> None:
    copy.unlink(missing_ok=True)
    try:
        os.link(path, copy)  # no bytes: a checkpoint is never changed in its place
    except OSError:
        shutil.copyfile(path, copy)


def drop_previous(folder: Path) -> None:
    """Removes the checkpoints that newer ones replaced: a finished run has no use for them."""
    for path in folder.glob("*.previous.pt"):
        path.unlink()


def load_newest(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest checkpoint that can be read: ``last.pt``, or the one before it with a warning.

    Args:
        folder: Folder of the checkpoints.
        device: Where its tensors go.

    Returns:
        What was saved; None if the run was stopped before its first checkpoint.

    Raises:
        CheckpointError: If there are checkpoints and none can be read.
    """
    last = folder / "last.pt"
    found = [path for path in (last, previous_of(last)) if path.exists()]
    if not found:
        return None
    try:
        return load_checkpoint(found[0], device)
    except CheckpointError as error:
        if len(found) == 1:
            raise
        content = load_checkpoint(found[1], device)
        logger.warning("%s Going back to %s.", error, found[1].name)
        return content


def restore_best(folder: Path, best_epoch: int) -> None:
    """Makes ``best.pt`` the selected epoch again that the resumed state knows of.

    A run that was killed between writing ``best.pt`` and ``last.pt`` has a ``best.pt`` from after
    the state it goes on from; the one before it has been kept.

    Args:
        folder: Folder of the checkpoints.
        best_epoch: Selected epoch, 0 for none yet.
    """
    best = folder / "best.pt"
    for path in (best, previous_of(best)):
        with suppress(CheckpointError):
            if load_checkpoint(path)["state"]["best_epoch"] == best_epoch:
                if path != best:
                    path.replace(best)
                return
    if best_epoch:
        logger.warning("The checkpoint of the selected epoch %d is lost.", best_epoch)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint; never executes code from it.

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
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({_reason(error)}); copy it again, or train "
            "the run again."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version (format {FORMAT}).")
    return content


def _reason(error: Exception) -> str:
    """Never in torch's words, which advise to read the file in the way that executes code."""
    if isinstance(error, (OSError, MemoryError, torch.OutOfMemoryError)):
        return first_line(error)
    if isinstance(error, zipfile.BadZipFile):
        return "it is damaged, or no checkpoint"
    return "it is damaged, or holds more than tensors and plain values"


def _read(path: Path, device: torch.device | str) -> Any:
    with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} in it is damaged")
    with warnings.catch_warnings(action="ignore"):  # torch's remarks on foreign pickles
        return torch.load(path, map_location=device, weights_only=True)


def load_weights(model: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Loads a model's state, all of it.

    Args:
        model: The model.
        state: Its ``state_dict``.
        path: Where the state came from, for the message.

    Raises:
        CheckpointError: If names or shapes differ: the checkpoint is another model's.
    """
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        details = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} is the checkpoint of another model than its config.yaml describes "
            f"({details[:200]}); evaluate the run with the configuration it was trained with."
        ) from error
