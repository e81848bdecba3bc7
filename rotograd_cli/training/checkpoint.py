"""Checkpoints: written atomically, read without executing code."""

import logging
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

from rotograd_cli.errors import CheckpointError, first_line, suggested
from rotograd_cli.files import replace_file

FORMAT = 1
logger = logging.getLogger(__name__)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all, and keep the one that it replaces.

    The old one stays beside it under the name of :func:`previous_of`. A process that is killed at
    any moment leaves one of the two complete under its name, and none half written.

    Args:
        path: Target; its folder exists.
        content: Tensors and plain values only, so that it can be loaded with ``weights_only=True``.

    Raises:
        CheckpointError: If it cannot be written; what was there is left as it is.
    """

    def write(file: IO[bytes]) -> None:
        torch.save({"format": FORMAT, **content}, file)
        file.flush()
        os.fsync(file.fileno())
        if path.exists():
            _link(path, previous_of(path), otherwise=os.replace)

    try:
        replace_file(path, write)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__ or error
        reason = getattr(cause, "strerror", None) or first_line(cause)
        raise CheckpointError(
            f"{path} cannot be written ({reason}); fix that, then go on from the last good "
            f"checkpoint with {suggested('train', f'resume={path.parent.parent}')}."
        ) from error


def previous_of(path: Path) -> Path:
    """Return the name of a replaced checkpoint: ``last.previous.pt`` of ``last.pt``."""
    return path.with_suffix(f".previous{path.suffix}")


def _link(path: Path, name: Path, otherwise: Callable[[Path, Path], object]) -> None:
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


def keep_epoch(folder: Path, epoch: int, num: int) -> None:
    """Keep ``last.pt`` as the checkpoint of its epoch, and the newest ``num`` of these.

    Args:
        folder: Folder of the checkpoints.
        epoch: Finished epochs.
        num: How many to keep, at least 1.
    """
    _link(folder / "last.pt", folder / f"epoch_{epoch:05d}.pt", otherwise=shutil.copyfile)
    for path in sorted(folder.glob("epoch_*.pt"))[:-num]:
        path.unlink()


def drop_previous(folder: Path) -> None:
    """Remove the checkpoints that newer ones replaced: a finished run has no use for them."""
    for path in folder.glob("*.previous.pt"):
        path.unlink()


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


def restore_best(folder: Path, best_epoch: int) -> None:
    """Make ``best.pt`` the selected epoch again that the resumed state knows of.

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
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({_reason(error)}); copy it again, or train "
            "the run again."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version (format {FORMAT}).")
    return content


def _reason(error: Exception) -> str:
    """Return why, never in torch's words: they advise to read it in the way that executes code."""
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
    """Load a model's state, all of it.

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
