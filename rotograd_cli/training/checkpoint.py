"""Checkpoints: written atomically by the first rank, read without executing code."""

import logging
import os
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from rotograd_cli.errors import CheckpointError, first_line, suggested
from rotograd_cli.files import remove_temporaries, replace_file
from rotograd_cli.training.options import CheckpointOptions
from rotograd_cli.training.run_state import RunState, load_weights

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
        reason = first_line(error.__context__ or error)
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
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version (format {FORMAT}).")
    return content


def _read(path: Path, device: torch.device | str) -> Any:
    with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} in it is damaged")
    with warnings.catch_warnings(action="ignore"):  # torch's remarks on foreign pickles
        return torch.load(path, map_location=device, weights_only=True)


@dataclass
class CheckpointFolder:
    """``last.pt``, ``best.pt`` and their predecessors.

    Args:
        path: The folder; exists when something is saved.
        run: What is saved.
        options: When checkpoints are written, and which are kept.
        extra: Returns what every checkpoint holds besides the run: ``records`` (how far the record
            files are written, bytes by name) and ``config`` (the resolved configuration).
    """

    path: Path
    run: RunState
    options: CheckpointOptions
    extra: Callable[[], dict[str, Any]]
    _saved_at: float = field(default_factory=time.monotonic, init=False)

    def save(self, name: str) -> None:
        """Write the run as it is now."""
        if not self.run.ranks.is_first:
            return
        save_checkpoint(self.path / name, self.run.content() | self.extra())
        self._saved_at = time.monotonic()

    def save_start(self) -> None:
        """Write what comes before the first ``last.pt``: where diagnosis begins if that fails."""
        before = previous_of(self.path / "last.pt")
        is_new = not (self.path / "last.pt").exists() and not before.exists()
        if self.run.state.step == 0 and is_new:
            self.save(before.name)

    def save_if_due(self) -> None:
        """Write ``last.pt`` if the newest checkpoint is older than the options allow."""
        if time.monotonic() - self._saved_at > 60 * self.options.every_minutes:
            self.save("last.pt")

    def save_epoch(self) -> None:
        """Write ``last.pt`` at the end of an epoch, and keep the newest epochs."""
        self.save("last.pt")
        num = self.options.keep_epochs
        if num and self.run.ranks.is_first:
            name = f"epoch_{self.run.state.epoch:05d}.pt"
            _link(self.path / "last.pt", self.path / name, otherwise=shutil.copyfile)
            for path in sorted(self.path.glob("epoch_*.pt"))[:-num]:
                path.unlink()

    def resume(self) -> dict[str, int] | None:
        """Go back to the newest checkpoint, as if the run had never been stopped.

        Returns:
            How far the record files were written then; None if there is no checkpoint, so that the
            run begins anew.

        Raises:
            CheckpointError: If no checkpoint can be read, or it is another run's.
        """
        content = self.run.ranks.broadcast_content(lambda: load_newest(self.path, self._read_to))
        if content is None:
            return None
        positions = self.run.restore(content, self.path / "last.pt")
        before, now = (planned_epochs(saved) for saved in (content, self.extra()))
        if before != now:
            self.run.extend(before, now)
        if self.run.ranks.is_first:
            remove_temporaries(self.path)  # of a process that was killed
            self._restore_best(self.run.state.best_epoch)
        return positions

    def _restore_best(self, best_epoch: int) -> None:
        """Make ``best.pt`` the selected epoch again that the resumed state knows of.

        A run that was killed between writing ``best.pt`` and ``last.pt`` has a ``best.pt`` from
        after the state it goes on from; the one before it has been kept.
        """
        best = self.path / "best.pt"
        for path in (best, previous_of(best)):
            with suppress(CheckpointError, KeyError, TypeError):  # a state of another kind
                if load_checkpoint(path)["state"]["best_epoch"] == best_epoch:
                    path.replace(best)
                    return
        if best_epoch:
            logger.warning("The checkpoint of the selected epoch %d is lost.", best_epoch)

    def load_best(self) -> None:
        """Load the weights of the selected epoch.

        Raises:
            CheckpointError: If ``best.pt`` is missing, or of another epoch.
        """
        path = self.path / "best.pt"
        expected = self.run.state.best_epoch
        content = self.run.ranks.broadcast_content(lambda: load_checkpoint(path, self._read_to))
        epoch = content["state"]["best_epoch"]
        if epoch != expected:
            raise CheckpointError(
                f"{path} must be of epoch {expected}, which was selected, got one of epoch {epoch};"
                " train the run again."
            )
        load_weights(self.run.evaluated_model, content["model"], path)

    def finish(self) -> None:
        """Drop what a finished run has no use for."""
        if self.run.ranks.is_first:
            for path in self.path.glob("*.previous.pt"):
                path.unlink()

    @property
    def _read_to(self) -> torch.device:
        """Where checkpoints are read to: the host where they are sent on."""
        return self.run.device if self.run.ranks.size == 1 else torch.device("cpu")


def planned_epochs(content: dict[str, Any]) -> int:
    """Return how many epochs the run of a checkpoint was to have."""
    epochs: int = content["config"]["train"]["epochs"]
    return epochs
