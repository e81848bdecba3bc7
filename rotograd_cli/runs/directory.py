"""A run directory: who may write in it, its configuration, log and summary."""

import dataclasses
import logging
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from rotograd_cli.errors import ConfigError, DatasetError, OccupiedError
from rotograd_cli.files import replace_text
from rotograd_cli.runs.summary import RunSummary

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in a run directory."""


class RunFolder:
    """A run directory that no other process can train in.

    Args:
        path: Run directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.summary = RunSummary()
        self.begun = False

    def begin(self, config: Mapping[str, Any] | None = None) -> None:
        """Write who trains here, and the configuration of a new run: the first change.

        Args:
            config: Resolved configuration of a new run; None goes on with the run that is there.

        Raises:
            ConfigError: If it holds a run already, or cannot be written.
        """
        if config is not None:
            refuse_used(self.path)
        self.begun = True
        with _unwritable(self.path):
            owner = f"process {os.getpid()} on {platform.node()}\n"
            (self.path / ".lock").write_text(owner, encoding="utf-8")
        if config is not None:
            self.write_config(config)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration: of a new run, or of one that is made longer.

        Raises:
            ConfigError: If it cannot be written.
        """
        with _unwritable(self.path):
            text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
            replace_text(self.path / "config.yaml", text)

    def note(self, **changes: Any) -> None:
        """Change the summary, which :meth:`write` writes."""
        self.summary = dataclasses.replace(self.summary, **changes)

    def write(self) -> None:
        """Write the summary."""
        self.summary.write(self.path)


@contextmanager
def claimed(run_dir: Path) -> Iterator[RunFolder]:
    """Keep other processes from training in a run directory; the claim ends with the process.

    Args:
        run_dir: Run directory; created if absent.

    Yields:
        The folder. Until its run begins, what is there stays as it is, and what was made for the
        claim is removed with it.

    Raises:
        ConfigError: If another process has it, it cannot be written, or one of its files is a link.
    """
    _refuse_links(run_dir)
    _refuse_foreign_checkpoints(run_dir)
    lock = run_dir / ".lock"
    new = [path for path in (lock, run_dir / CHECKPOINTS, run_dir) if not path.exists()]
    with _unwritable(run_dir):
        (run_dir / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        claim = _acquired(lock, run_dir)
    with claim:
        folder = RunFolder(run_dir)
        try:
            yield folder
        finally:
            if not folder.begun:
                _remove(new)


def _acquired(path: Path, run_dir: Path) -> FileLock:
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        owner = path.read_text(encoding="utf-8").strip() or "another process"
        raise OccupiedError(
            f"{run_dir} must be free, but {owner} is training in it; wait for that, or stop it "
            "first."
        ) from error
    return lock


@contextmanager
def _unwritable(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"The run directory {run_dir} cannot be written ({error.strerror}); set "
            "paths.output_dir (or hydra.run.dir) to a writable folder."
        ) from error


def _refuse_links(run_dir: Path) -> None:
    """A run directory of somebody else's could have training write over any file of the user's."""
    if not run_dir.is_dir():
        return
    for path in (*run_dir.iterdir(), *(run_dir / CHECKPOINTS).glob("*.tmp")):
        if path.is_symlink() and not path.is_dir():
            raise ConfigError(
                f"{path} must be a file, got a link to {os.readlink(path)!r}, and training would "
                "write through it; copy that file here, or remove the link."
            )


def _refuse_foreign_checkpoints(run_dir: Path) -> None:
    """A link to a large disk is fine, one into another run's folder would replace its files."""
    folder = run_dir / CHECKPOINTS
    other = folder.resolve().parent
    if folder.is_symlink() and is_used(other):
        raise ConfigError(
            f"{folder} must be this run's own, got a link into the run {other}, whose checkpoints "
            "training would replace; copy them here, or remove the link."
        )


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        with suppress(OSError):  # a folder that is not empty
            path.rmdir() if path.is_dir() else path.unlink()


def status_of(run_dir: Path, summary: RunSummary) -> str:
    """Return what became of a run: ``running``, ``stopped``, or its outcome.

    A run whose process is gone was killed: like one that was interrupted it is ``stopped``.

    Args:
        run_dir: Run directory.
        summary: Its summary.
    """
    was_killed = summary.status == "running" and not _has_process(run_dir)
    return "stopped" if was_killed or summary.status == "interrupted" else summary.outcome


def unfinished(run_dir: Path) -> str | None:
    """Say that the best epoch of a run may still change, or that there is none; else None."""
    summary = RunSummary.read(run_dir) or RunSummary()
    if summary.status == "finished":
        return None
    status = status_of(run_dir, summary)
    what = "its best epoch may still change" if summary.selected_epoch else "no epoch is selected"
    return f"The run is not finished ({status}): {what}."


def _has_process(folder: Path) -> bool:
    """Whether the process that trains in a folder may be there: on another machine it may be."""
    try:
        owner = (folder / ".lock").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    match = re.fullmatch(r"process (\d+) on (.*)\n", owner)
    if match is None or match[2] != platform.node():
        return True
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def is_used(run_dir: Path) -> bool:
    """Return whether a run began in a folder."""
    return (run_dir / "config.yaml").exists()


def refuse_used(run_dir: Path) -> None:
    """Refuse a directory for a new run that holds one.

    Raises:
        OccupiedError: If there is a run in it.
    """
    if is_used(run_dir):
        raise OccupiedError(f"{run_dir} holds a run already; choose another folder or remove it.")


def other_data(run_dir: Path, fingerprint: str | None) -> str | None:
    """Say that a run was trained on other data.

    Args:
        run_dir: Run directory.
        fingerprint: Fingerprint of the data that are there now.

    Returns:
        Both fingerprints; None if they agree, or the run recorded none.
    """
    summary = RunSummary.read(run_dir)
    before = None if summary is None else summary.data_fingerprint
    if before in (None, fingerprint):
        return None
    return (
        f"{run_dir} was trained on data with fingerprint {before!r}, those here have "
        f"{fingerprint!r}"
    )


def refuse_other_data(run_dir: Path, fingerprint: str | None, data_dir: str) -> None:
    """Refuse to go on with other data than a run began with.

    Args:
        run_dir: Run directory.
        fingerprint: Fingerprint of the data that are there now.
        data_dir: The data root, for the message.

    Raises:
        DatasetError: If the fingerprints differ.
    """
    difference = other_data(run_dir, fingerprint)
    if difference is not None:
        raise DatasetError(
            f"`resume` needs the data that the run began with, but {difference}; restore the files "
            f"in the data root {data_dir}, name the right one with paths.data_dir=DIR, or start a "
            "new run without resume."
        )


class _StandardError(logging.Handler):
    """Print to standard error as it is now: while a bar is shown, lines go above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:  # as every handler of logging does
            self.handleError(record)


@contextmanager
def log_file(path: Path, label: str | None = "") -> Iterator[None]:
    """Log this package's messages to a file, and to standard error from INFO up.

    Args:
        path: The file.
        label: What every line on standard error begins with; None for WARNING and up alone.
    """
    package = logging.getLogger("rotograd_cli")
    file = logging.FileHandler(path, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal = _StandardError()
    terminal.setLevel(logging.WARNING if label is None else logging.INFO)
    terminal.setFormatter(logging.Formatter(f"{label or ''}%(message)s"))
    handlers = (file, terminal)
    level = package.level
    propagate = package.propagate
    package.setLevel(logging.DEBUG)
    package.propagate = False
    for handler in handlers:
        package.addHandler(handler)
    try:
        yield
    finally:
        package.setLevel(level)
        package.propagate = propagate
        for handler in handlers:
            package.removeHandler(handler)
            handler.close()
