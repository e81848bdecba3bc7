"""What Hydra's callbacks leave for the command that is running.

Hydra makes the callbacks and keeps them to itself, so that this module is where both sides meet.
It imports nothing heavy: the command line reads it whatever has been imported when a command ends.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rotograd_cli.errors import CELL_FAILED, hydra_value, suggested

if TYPE_CHECKING:
    from rotograd_cli.runs.summary import RunSummary

NOTE = "multirun.yaml"
"""File in which Hydra describes a sweep, in the sweep's folder."""

failures: list[str] = []
"""Cells of sweeps of this process that did not finish; the exit code depends on it."""

refused: dict[Path, "RunSummary"] = {}
"""What became of cells of this process that did not begin, by their absolute folder."""

sweep_dirs: list[Path] = []
"""The sweep that began and has not ended."""


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


@dataclass(frozen=True)
class _EarlierNote:
    """The note of an earlier sweep in the same folder, which Hydra will replace."""

    path: Path
    content: bytes
    stat: os.stat_result

    def restore(self) -> None:
        with suppress(OSError):
            if self.path.stat().st_mtime_ns != self.stat.st_mtime_ns:
                self.path.write_bytes(self.content)
                os.utime(self.path, ns=(self.stat.st_atime_ns, self.stat.st_mtime_ns))


_new_folders: list[Path] = []
_earlier_notes: list[_EarlierNote] = []


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
            _earlier_notes.append(_EarlierNote(note, note.read_bytes(), note.stat()))


def forget_folders() -> None:
    """Keep the folders as they are from now on."""
    _new_folders.clear()
    _earlier_notes.clear()


def remove_unused_folders() -> None:
    """Remove new folders that hold nothing, or only the note of a sweep without cells.

    The note of an earlier sweep is restored.
    """
    for note in _earlier_notes:
        note.restore()
    for folder in _new_folders:
        with suppress(OSError):  # not empty, or never made
            if _names(folder) == [NOTE]:
                (folder / NOTE).unlink()
            folder.rmdir()
    forget_folders()


def _names(folder: Path) -> Sequence[str]:
    return [path.name for path in folder.iterdir()]
