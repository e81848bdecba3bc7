"""Who may write in a run directory: one process at a time, and never over another run."""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml

from rotograd_cli.errors import ConfigError, OccupiedError
from rotograd_cli.runs.report import write_summary


class Claim:
    """A run directory that no other process can train in.

    Args:
        run_dir: Run directory.
        lock: Its open and locked file.
    """

    def __init__(self, run_dir: Path, lock: IO[str]) -> None:
        self.run_dir, self._lock = run_dir, lock
        self.begun = False

    def begin(self, config: Mapping[str, Any] | None = None) -> None:
        """Write who trains here, and the configuration of a new run; the first change.

        Args:
            config: Resolved configuration of a new run; None goes on with the run that is there.

        Raises:
            ConfigError: If it holds a run already, or cannot be written.
        """
        if config is not None:
            refuse_used(self.run_dir)
        self.begun = True
        with _unwritable(self.run_dir):
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {platform.node()}\n")
            self._lock.flush()
            if config is not None:
                _write_config(self.run_dir / "config.yaml", config)


@contextmanager
def claimed(run_dir: Path) -> Iterator[Claim]:
    """Inside, no other process can train in this run directory; the claim ends with the process.

    Args:
        run_dir: Run directory; created if absent.

    Yields:
        The claim. Until it begins, what is there stays as it is, and what was made for the claim
        goes away again with it.

    Raises:
        ConfigError: If another process has it, it cannot be written, or one of its files is a link.
    """
    _refuse_links(run_dir)
    _refuse_foreign_checkpoints(run_dir)
    folder, file = run_dir / "checkpoints", run_dir / ".lock"
    new = [path for path in (file, folder, run_dir) if not path.exists()]
    with _unwritable(run_dir):
        folder.mkdir(parents=True, exist_ok=True)
        lock = file.open("a+", encoding="utf-8")
    with lock:
        _take(lock, run_dir)
        claim = Claim(run_dir, lock)
        try:
            yield claim
        finally:
            if not claim.begun:
                _remove(new)


def _refuse_links(run_dir: Path) -> None:
    """A run directory of somebody else's could have training write over any file of the user's."""
    if not run_dir.is_dir():
        return
    for path in (*run_dir.iterdir(), *(run_dir / "checkpoints").glob("*.tmp")):
        if path.is_symlink() and not path.is_dir():
            raise ConfigError(
                f"{path} must be a file, got a link to {os.readlink(path)!r}, and training would "
                "write through it; copy that file here, or remove the link."
            )


def _refuse_foreign_checkpoints(run_dir: Path) -> None:
    """A link to a large disk is fine, one into another run's folder would replace its files."""
    folder = run_dir / "checkpoints"
    other = folder.resolve().parent
    if folder.is_symlink() and is_used(other):
        raise ConfigError(
            f"{folder} must be this run's own, got a link into the run {other}, whose checkpoints "
            "training would replace; copy them here, or remove the link."
        )


def _take(lock: IO[str], run_dir: Path) -> None:
    """Lock the file of a run directory, or say who has it."""
    import fcntl  # POSIX only, and only this needs it

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock.fileno()).st_nlink == 0:  # another claim took its file away meanwhile
            raise BlockingIOError
    except OSError as error:
        lock.seek(0)
        raise OccupiedError(
            f"{run_dir} must be free, but {lock.read().strip() or 'another process'} is "
            "training in it; wait for that, or stop it first."
        ) from error


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        with suppress(OSError):  # a folder that is not empty
            path.rmdir() if path.is_dir() else path.unlink()


def is_used(run_dir: Path) -> bool:
    """Whether a run began in a folder."""
    return (run_dir / "config.yaml").exists()


def refuse_used(run_dir: Path) -> None:
    """Refuses a directory for a new run that holds one.

    Args:
        run_dir: Run directory; may be absent.

    Raises:
        OccupiedError: If there is a run in it.
    """
    if is_used(run_dir):
        raise OccupiedError(f"{run_dir} holds a run already; choose another folder or remove it.")


def check_own_folder(run_dir: Path) -> None:
    """Refuses a directory for a run that is the working directory.

    Args:
        run_dir: Run directory; may be absent.

    Raises:
        ConfigError: If it is.
    """
    if run_dir.resolve() == Path.cwd():
        raise ConfigError("`hydra.run.dir` must be a folder of its own, got the current one.")


def record_failure(run_dir: Path, overrides: Sequence[str], reason: str) -> dict[str, Any]:
    """Write why a run did not begin, unless its folder holds a run: that one speaks for itself.

    Args:
        run_dir: Run directory.
        overrides: What the user changed.
        reason: One line.

    Returns:
        The summary.
    """
    summary = {"status": "failed", "overrides": list(overrides), "error": reason}
    if not is_used(run_dir):
        write_summary(run_dir, summary)
    return summary


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    """In one piece, so that a run that is killed has a configuration or none."""
    temporary = path.with_suffix(".tmp")
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@contextmanager
def _unwritable(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"The run directory {run_dir} cannot be written ({error.strerror}); set "
            "paths.output_dir (or hydra.run.dir) to a writable folder."
        ) from error
