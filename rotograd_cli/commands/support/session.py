"""What Hydra's callbacks and launchers leave for the end of the command that is running.

Hydra makes the callbacks and keeps them to itself, so that this module is where both sides meet.
It imports nothing heavy: the command line reads it whatever has been imported when a command ends.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotograd_cli.errors import CELL_FAILED, hydra_value, suggested

if TYPE_CHECKING:
    from rotograd_cli.runs.summary import RunSummary

LAUNCHERS = ("submitit", "joblib", "ray", "concurrent")
"""Packages whose own errors mean that a job was lost."""

NOTE = "multirun.yaml"
"""File in which Hydra describes a sweep, in the sweep's folder."""

failures: list[str] = []
"""Cells of sweeps of this process that did not finish; the exit code depends on it."""

refused: dict[Path, "RunSummary"] = {}
"""What became of cells of this process that did not begin, by their absolute folder."""

sweep_dirs: list[Path] = []
"""The sweep that began and has not ended."""

foreign: list[Path] = []
"""What was in its folder before it and belongs to none of its cells."""


def report_failures() -> int:
    """Print the failures and forget them, as a program may call ``main`` again.

    Returns:
        Exit code: ``CELL_FAILED`` if there are any, else 0.
    """
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    code = CELL_FAILED if failures else 0
    failures.clear()
    return code


def how_to_continue() -> list[str]:
    """Return a line with the command that continues the sweep that was interrupted, if any."""
    replaced = ("hydra.sweep.dir=", "resume=")
    arguments = [word for word in sys.argv[1:] if not word.startswith(replaced)]
    folders = [f"hydra.sweep.dir={hydra_value(str(folder))}" for folder in sweep_dirs]
    commands = [suggested("train", *arguments, folder, "resume=auto") for folder in folders]
    return [f"Continue the sweep with: {command}" for command in commands]


_new_folders: list[Path] = []
_earlier_notes: dict[Path, tuple[bytes, os.stat_result]] = {}
"""Notes of earlier sweeps in the same folder, which Hydra will replace."""


def remember_folder(folder: Path) -> None:
    """Remember which parts of a path are new, before Hydra makes them.

    Args:
        folder: Folder of a run or of a sweep.
    """
    forget_folders()
    path = folder.absolute()
    _new_folders.extend(f for f in (path, *path.parents) if not os.path.lexists(f))
    note = path / NOTE
    with suppress(OSError):
        if note.is_file():
            _earlier_notes[note] = (note.read_bytes(), note.stat())


def forget_folders() -> None:
    """Keep the folders as they are from now on."""
    _new_folders.clear()
    _earlier_notes.clear()


def remove_unused_folders() -> None:
    """Remove new folders that hold nothing, or only the note of a sweep without cells.

    The note of an earlier sweep is restored.
    """
    for note, (content, stat) in _earlier_notes.items():
        with suppress(OSError):
            if note.stat().st_mtime_ns != stat.st_mtime_ns:
                note.write_bytes(content)
                os.utime(note, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for folder in _new_folders:
        with suppress(OSError):  # not empty, or never made
            if os.listdir(folder) == [NOTE]:
                (folder / NOTE).unlink()
            folder.rmdir()
    forget_folders()


def stop_launcher() -> list[str]:
    """Stop what a launcher runs beside its workers, as far as it does not stop by itself.

    Returns:
        Sentences on what continues.
    """
    ray: Any = sys.modules.get("ray")
    slurm: Any = sys.modules.get("submitit.slurm.slurm")
    with suppress(Exception):  # whatever state they are in, the process is about to end
        if ray is not None and ray.is_initialized():
            ray.shutdown()
        jobs = [] if slurm is None else slurm.SlurmJob.watcher._registered
        if jobs:
            numbers = " ".join(sorted({job.partition("_")[0] for job in jobs}))
            return [f"SLURM continues with what it was given; scancel {numbers} stops that."]
    return []


def launcher_failure(error: BaseException) -> str | None:
    """Return one line for a job that a launcher lost: killed, out of memory, out of time.

    Args:
        error: What the launcher raised.

    Returns:
        The line; None for any other error.
    """
    if type(error).__module__.partition(".")[0] not in LAUNCHERS:
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    reason = " ".join(lines[:2]) or "no reason given"
    return f"The launcher lost a job ({type(error).__name__}: {reason})"
